"""Which layers a model holds, and with which shapes each is called."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfcompress.errors import UnsupportedModelError
from tfcompress.layers import registry
from tfcompress.spec import Call

_LOCK = threading.RLock()


class Leaf(NamedTuple):
    """A layer that is no model itself, or a part of one, under its path."""

    path: str
    layer: keras.layers.Layer


def leaves(model: keras.Model, *, parts: bool = True) -> list[Leaf]:
    """Every layer of a model once, nested models opened, in order of creation.

    A layer that holds other layers but is no model (bidirectional, a user's block)
    counts as one. Attention is followed by its projections, which can be replaced one
    by one: "attention", "attention/query", "attention/key" and so on.

    Args:
        model: Sequential, Functional or subclassed; built.
        parts: whether to list the projections of attention.

    Returns:
        Pairs of path ("block1/conv") and layer; a shared layer stands under the first
        path that leads to it. Paths are unique.
    """
    found: list[Leaf] = []
    seen: set[int] = set()
    paths: set[str] = set()

    def add(path: str, layer: keras.layers.Layer) -> str:
        # Subclassed models may hold two layers of one name.
        unique, count = path, 1
        while unique in paths:
            count += 1
            unique = f"{path}#{count}"
        paths.add(unique)
        found.append(Leaf(unique, layer))
        return unique

    def walk(parent: keras.Model, prefix: str) -> None:
        for layer in parent.layers:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = prefix + layer.name
            if isinstance(layer, keras.Model):
                walk(layer, path + "/")
                continue
            path = add(path, layer)
            for name, part in registry.parts(layer).items() if parts else ():
                add(f"{path}/{name}", part)

    walk(model, "")
    return found


def descendants(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and all layers within it, each once."""
    return list({id(x): x for x in layer._flatten_layers()}.values())


def input_specs(
    model: keras.Model, input_shapes: Any = None, *, batch: int | None = 1
) -> Any:
    """Tensor specs of a model's inputs, in the structure its call takes.

    Args:
        model: a built model.
        input_shapes: shapes without batch where the model leaves them open: one
            tuple, or a structure of tuples like the model's inputs.
        batch: batch size of the specs; None leaves it open.

    Raises:
        UnsupportedModelError: the model does not know its inputs, or leaves a size
            open that `input_shapes` does not give.
    """
    declared = getattr(model, "_inputs_struct", None)
    if declared is None and isinstance(model, keras.Sequential) and model.built:
        declared = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    if declared is None:
        return _specs_of_subclassed(model, input_shapes, batch)
    flat = tf.nest.flatten(declared)
    given: list[tuple[int, ...]] | None = None
    if input_shapes is not None:
        one = all(isinstance(size, int) for size in input_shapes)
        given = [tuple(input_shapes)] if one else [tuple(s) for s in input_shapes]
        if len(given) != len(flat):
            raise UnsupportedModelError(
                f"Model '{model.name}' has {len(flat)} inputs: give one shape for "
                f"each. Received: input_shapes={input_shapes}"
            )
    specs = []
    for index, tensor in enumerate(flat):
        shape = tuple(tensor.shape[1:]) if given is None else given[index]
        if batch is not None and None in shape:
            raise UnsupportedModelError(
                f"Input '{tensor.name}' of model '{model.name}' has the open shape "
                f"{shape}: say its size, such as input_shapes=(224, 224, 3)."
            )
        specs.append(tf.TensorSpec((batch, *shape), tensor.dtype, name=tensor.name))
    return tf.nest.pack_sequence_as(declared, specs)


def _specs_of_subclassed(
    model: keras.Model, input_shapes: Any, batch: int | None
) -> Any:
    shapes = input_shapes
    if shapes is None:
        known = model._build_shapes_dict or {}
        if len(known) == 1:
            shape = next(iter(known.values()))
            if isinstance(shape, (list, tuple)) and shape:
                shapes = tuple(shape[1:])
    plain = isinstance(shapes, (list, tuple)) and all(
        isinstance(size, int) for size in shapes
    )
    if not plain:
        raise UnsupportedModelError(
            f"The subclassed model '{model.name}' does not tell its input shape: call "
            "it once on data, or say it, such as input_shapes=(224, 224, 3)."
        )
    return tf.TensorSpec((batch, *shapes), keras.config.floatx(), name="inputs")


def _shape(value: Any) -> tuple[int, ...]:
    for item in tf.nest.flatten(value):
        if hasattr(item, "shape"):
            return tuple(item.shape[1:])
    return ()


Listener = Callable[[keras.layers.Layer, Any, Any], None]


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells of every layer call: `listener(layer, inputs, outputs)`.

    Inputs are the positional arguments of the call, or else the named ones. Layers
    inside composite layers and nested models are heard too.
    """
    with _LOCK:
        original = keras.layers.Layer.__call__

        def heard(layer: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = original(layer, *args, **kwargs)
            listener(layer, args if args else tuple(kwargs.values()), outputs)
            return outputs

        keras.layers.Layer.__call__ = heard
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original


def trace_calls(
    model: keras.Model, input_shapes: Any = None
) -> dict[int, tuple[Call, ...]]:
    """Shapes of every layer call of one forward pass of one sample.

    The model runs symbolically, once: no weights are read, nothing is computed. This
    finds calls of shared layers, nested models and subclassed models alike.

    Args:
        model: a built model.
        input_shapes: see `input_specs`.

    Returns:
        Calls by `id(layer)`, layers inside composite layers included.

    Raises:
        UnsupportedModelError: the model cannot be run on its declared inputs.
    """
    specs = input_specs(model, input_shapes)

    @tf.function(autograph=False)
    def forward(inputs: Any) -> Any:
        return model(inputs, training=False)

    calls: dict[int, list[Call]] = {}

    def record(layer: Any, inputs: Any, outputs: Any) -> None:
        call = Call(_shape(inputs), _shape(outputs))
        calls.setdefault(id(layer), []).append(call)

    with listening(record):
        try:
            forward.get_concrete_function(specs)
        except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"Model '{model.name}' does not run on inputs {specs}: {reason}"
            ) from error
    return {key: tuple(value) for key, value in calls.items()}
