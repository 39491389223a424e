"""What a Keras model takes and gives, under names that survive into a signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.deploy.forms import ExportError


@dataclass(frozen=True)
class Interface:
    """A model's inputs by name, and how to call the model with them.

    Attributes:
        specs: name -> `tf.TensorSpec`, in the order the model declares them.
        call: function from `{name: tensor}` to `{output name: tensor}`, in
            inference mode.
        by_name: whether the model itself takes a dict.
    """

    specs: dict[str, tf.TensorSpec]
    call: Callable[[dict[str, Any]], dict[str, Any]]
    by_name: bool


def describe(model: keras.Model, input_shapes: Any = None) -> Interface:
    """Finds the names, shapes and dtypes of a built model's inputs.

    Args:
        model: a built Functional, Sequential or subclassed Keras model.
        input_shapes: replaces the shapes the model knows; see `export_tflite`.

    Returns:
        An `Interface`. A dict-input model keeps its dict keys, any other
        Functional or Sequential model the names of `model.inputs`, a subclassed
        model `"inputs"` or the names of its call arguments.

    Raises:
        ExportError: the model is not built, or `input_shapes` does not fit it.
    """
    if not isinstance(model, keras.Model):
        raise ExportError(
            "`model` must be a keras.Model, because only its inputs are known. "
            f"Received: {type(model).__name__}"
        )
    if not model.built:
        raise ExportError(
            f"Model '{model.name}' is not built, so its input shapes are unknown; "
            "call it once on a batch or call `model.build(...)` before exporting."
        )
    if getattr(model, "inputs", None):
        specs, pack = _from_tensors(model)
    else:
        specs, pack = _from_build_shapes(model, input_shapes)
    by_name = isinstance(pack({name: name for name in specs}), dict)
    specs, renamed = _override(model, specs, input_shapes)

    def call(feeds: dict[str, Any]) -> dict[str, Any]:
        own = {old: feeds[new] for old, new in renamed.items()}
        packed = pack(own)
        if isinstance(packed, _Arguments):
            return name_outputs(model, model(**packed, training=False))
        return name_outputs(model, model(packed, training=False))

    return Interface(specs, call, by_name)


class _Arguments(dict):
    """Marks inputs that the model takes as separate call arguments."""


def _from_tensors(model: keras.Model) -> tuple[dict[str, tf.TensorSpec], Callable]:
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    leaves = keras.tree.flatten(structure)
    flat_dict = isinstance(structure, Mapping) and len(structure) == len(leaves)
    named = structure if flat_dict else {tensor.name: tensor for tensor in leaves}
    if len(named) != len(leaves):
        raise ExportError(
            f"Model '{model.name}' has two inputs of the same name; name each "
            "`keras.Input` differently. "
            f"Received: {[tensor.name for tensor in leaves]}"
        )
    specs = {
        name: tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name=name)
        for name, tensor in named.items()
    }
    if flat_dict:
        return specs, dict
    order = [tensor.name for tensor in leaves]
    return specs, lambda feeds: keras.tree.pack_sequence_as(
        structure, [feeds[name] for name in order]
    )


def _from_build_shapes(
    model: keras.Model, input_shapes: Any
) -> tuple[dict[str, tf.TensorSpec], Callable]:
    config = model.get_build_config() or {}
    known = config.get("input_shape", config.get("shapes_dict"))
    if known is None and isinstance(input_shapes, Mapping) and len(input_shapes) == 1:
        (known,) = input_shapes.values()
    elif known is None:
        known = input_shapes
    if known is None:
        raise ExportError(
            f"Model '{model.name}' does not say what shapes it was built for; pass "
            "`input_shapes`, such as {'image': (None, 28, 28, 1)}."
        )
    if "shapes_dict" in config:
        named = {key.removesuffix("_shape"): value for key, value in known.items()}
        return _batched(named), _Arguments
    if isinstance(known, Mapping):
        return _batched(dict(known)), dict
    if _is_shape(known):
        return _batched({"inputs": known}), lambda feeds: feeds["inputs"]
    named = {f"inputs_{index}": shape for index, shape in enumerate(known)}
    kind = tuple if isinstance(known, tuple) else list
    return _batched(named), lambda feeds: kind(feeds[name] for name in named)


def _batched(shapes: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    """Specs with a free batch size: the size of the building batch is an accident."""
    specs = {name: _as_spec(name, shape) for name, shape in shapes.items()}
    return {
        name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name=name)
        for name, spec in specs.items()
    }


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tf.TensorSpec, tf.TensorShape)) or (
        isinstance(value, (tuple, list))
        and all(size is None or isinstance(size, (int, np.integer)) for size in value)
    )


def _as_spec(name: str, shape: Any, dtype: Any = tf.float32) -> tf.TensorSpec:
    if not _is_shape(shape):
        raise ExportError(
            f"The shape of input '{name}' must be a tuple of sizes with the batch "
            f"first, or a tf.TensorSpec. Received: {shape!r}"
        )
    if isinstance(shape, tf.TensorSpec):
        return tf.TensorSpec(shape.shape, shape.dtype, name=name)
    return tf.TensorSpec(tuple(shape), dtype, name=name)


def _override(
    model: keras.Model, specs: dict[str, tf.TensorSpec], input_shapes: Any
) -> tuple[dict[str, tf.TensorSpec], dict[str, str]]:
    """Puts the caller's shapes in; returns the specs and model name -> file name."""
    if input_shapes is None:
        return specs, {name: name for name in specs}
    given = input_shapes
    if not isinstance(given, Mapping):
        listed = [given] if _is_shape(given) else list(given)
        given = (
            dict(zip(specs, listed, strict=False))
            if len(listed) == len(specs)
            else dict(enumerate(listed))
        )
    if len(given) == len(specs) == 1:
        renamed = {name: str(new) for name, new in zip(specs, given, strict=True)}
    else:
        renamed = {name: name for name in specs}
    if set(given) != set(renamed.values()):
        raise ExportError(
            f"`input_shapes` must give one shape for each input of '{model.name}': "
            f"{list(specs)}. Received: {input_shapes!r}"
        )
    return {
        new: _as_spec(new, given[new], specs[name].dtype)
        for name, new in renamed.items()
    }, renamed


def name_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Names a model's outputs: dict keys, else the model's own names, each once."""
    flat = keras.tree.flatten(outputs)
    if isinstance(outputs, Mapping) and len(outputs) == len(flat):
        # The identity keeps an output that is also an input a tensor of its own.
        return {str(key): tf.identity(value) for key, value in outputs.items()}
    names = list(getattr(model, "output_names", None) or [])
    if not names and isinstance(model, keras.Sequential):
        names = [model.layers[-1].name]
    if len(names) != len(flat):
        names = [f"output_{index}" for index in range(len(flat))]
    named: dict[str, Any] = {}
    for name, value in zip(names, flat, strict=True):
        unique, count = name, 0
        while unique in named:
            count += 1
            unique = f"{name}_{count}"
        named[unique] = tf.identity(value)
    return named
