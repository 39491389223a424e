"""Keras 3 models as `tf_keras` models, the only ones that tfmot knows, and back.

Importing tfmot sets `TF_USE_LEGACY_KERAS` for the whole process; here it is put back,
and what `tf.keras` is has been settled before.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.errors import UnsupportedModelError
from tfcompress.surgery import copy_model, expand
from tfcompress.surgery.chains import graph_of
from tfcompress.surgery.fold import fold_batch_norm
from tfcompress.trace import leaves

_VARIABLE = "TF_USE_LEGACY_KERAS"

# Rebuilt as the legacy class of the same name: what tfmot quantizes, prunes or
# clusters, and what it lets pass. Every other layer is called as it is.
_REBUILT = (
    *("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "DepthwiseConv2D", "Dense"),
    *("BatchNormalization", "Embedding", "SeparableConv2D"),
    *("Activation", "ReLU", "LeakyReLU", "Softmax", "Add", "Concatenate"),
    *("AveragePooling2D", "MaxPooling2D", "GlobalAveragePooling1D"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "Reshape", "Permute"),
    *("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Dropout", "SpatialDropout2D"),
)
# Keras 3 and its predecessor give these other names.
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}

# Of relative output differences between the two models.
_TOLERANCE = 1e-3


@functools.cache
def toolkit() -> tuple[Any, Any]:
    """`tensorflow_model_optimization` and `tf_keras`; the process stays as it is."""
    # What `tf.keras` is, is settled by its first use: before the toolkit sets the
    # variable.
    tf.keras.version()
    before = os.environ.get(_VARIABLE)
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras

        # It imports its parts on their first use: here.
        for part in ("sparsity", "clustering", "quantization"):
            getattr(tfmot, part).keras  # noqa: B018
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return tfmot, tf_keras


@dataclasses.dataclass(frozen=True)
class Legacy:
    """A Keras 3 model and its twin in `tf_keras`.

    Attributes:
        source: the Keras 3 model of stock layers that was rebuilt.
        model: the twin, with the same outputs.
        twins: layers of the twin by the Keras 3 layer they stand for, as
            `(layer, twin)`.
        kept: why other layers are called as they are, by name. Their weights are not
            trained.
    """

    source: keras.Model
    model: Any
    twins: tuple[tuple[Any, Any], ...]
    kept: dict[str, str]


def to_legacy(model: keras.Model, *, fold: bool = False) -> Legacy:
    """The same network as a `tf_keras` model.

    Factorized layers are expanded to stock layers and nested models flattened. Layers
    that `tf_keras` or tfmot do not know are called as they are, inside the twin.

    Args:
        model: a built Sequential or Functional model; it is not changed.
        fold: make batch normalization part of the layer before it.

    Raises:
        UnsupportedModelError: a subclassed model; or the twin computes something else.
    """
    graph = graph_of(model)
    if getattr(graph, "_nodes_by_depth", None) is None:
        raise UnsupportedModelError(
            f"Model '{model.name}' ({type(model).__name__}) cannot be rebuilt in "
            "tf_keras: write it as a functional or sequential model."
        )
    source = expand(model)
    if fold:
        source = fold_batch_norm(source)
    _, tf_keras = toolkit()
    build = _Build()
    graph = graph_of(source)
    inputs = [
        tf_keras.Input(
            batch_shape=tuple(tensor.shape), dtype=tensor.dtype, name=tensor.name
        )
        for tensor in graph.inputs
    ]
    outputs = keras.tree.flatten(build.run(source, inputs))
    twin = tf_keras.Model(inputs, outputs, name=model.name)
    legacy = Legacy(source, twin, tuple(build.twins.values()), build.kept)
    _check(legacy)
    return legacy


def carry_back(legacy: Legacy, trained: Any) -> keras.Model:
    """The weights of a trained twin in a Keras 3 model.

    Args:
        legacy: of the twin before training.
        trained: a `tf_keras` model whose layers bear the twin's names.

    Returns:
        A new Keras 3 model of stock layers.
    """
    new = copy_model(legacy.source)
    pairs = zip(leaves(legacy.source), leaves(new), strict=True)
    twins = {id(old): fresh for (_, old), (_, fresh) in pairs}
    for layer, twin in legacy.twins:
        weights = trained.get_layer(twin.name).get_weights()
        if weights:
            # Masks leave zeros of both signs: the sum has only positive ones, which
            # compress better.
            twins[id(layer)].set_weights([weight + 0.0 for weight in weights])
    return new


class _Build:
    """One rebuilding: layers that are called more than once stay one layer."""

    def __init__(self) -> None:
        self.twins: dict[int, tuple[Any, Any]] = {}
        self.kept: dict[str, str] = {}
        self._names: set[str] = set()

    def run(self, model: keras.Model, inputs: Any) -> Any:
        return graph_of(model)._run_through_graph(inputs, operation_fn=self._function)

    def _function(self, operation: Any) -> Any:
        if isinstance(operation, keras.Model):
            return lambda *args, **_: self.run(operation, args)
        if type(operation) is keras.layers.Identity:
            return lambda x, **_: x
        return functools.partial(self._call, operation)

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        reason = _reason_to_keep(operation, args, kwargs)
        if reason is None:
            if id(operation) not in self.twins:
                self.twins[id(operation)] = (operation, self._twin(operation))
            return self.twins[id(operation)][1](args[0])
        self.kept[operation.name] = reason
        flat = keras.tree.flatten((args, kwargs))
        tensors = [x for x in flat if _is_symbolic(x)]
        places = [_Place() if _is_symbolic(x) else x for x in flat]
        call = (operation, (args, kwargs), places)
        return kept_class()(_remember(call), name=self._name(operation.name))(tensors)

    def _twin(self, layer: Any) -> Any:
        _, tf_keras = toolkit()
        kind = getattr(tf_keras.layers, type(layer).__name__)
        config = _plain_config(layer, kind)
        twin = kind(**config | {"name": self._name(layer.name)})
        shape = layer._build_shapes_dict.get("input_shape") if layer.weights else None
        if shape is not None:
            twin.build(shape)
            twin.set_weights(layer.get_weights())
        return twin

    def _name(self, name: str) -> str:
        # Layers of nested models may bear the same name.
        for number in itertools.count():
            unique = f"{name}_{number}" if number else name
            if unique not in self._names:
                self._names.add(unique)
                return unique
        raise AssertionError


class _Place:
    """Where a tensor stands among the arguments of a call."""


_CALLS: list[Any] = []


def _remember(call: Any) -> int:
    _CALLS.append(call)
    return len(_CALLS) - 1


@functools.cache
def kept_class() -> type:
    _, tf_keras = toolkit()

    # tfmot clones models by their configuration: this holds a number for the call.
    @tf_keras.utils.register_keras_serializable(package="tfcompress")
    class Kept(tf_keras.layers.Layer):
        """A layer or operation of Keras 3, called in inference mode."""

        def __init__(self, number: int, **kwargs: Any) -> None:
            super().__init__(trainable=False, **kwargs)
            self.number = number

        def call(self, tensors: Any) -> Any:
            operation, structure, places = _CALLS[self.number]
            given = iter(tf.nest.flatten(tensors))
            flat = [next(given) if isinstance(x, _Place) else x for x in places]
            args, kwargs = keras.tree.pack_sequence_as(structure, flat)
            if "training" in kwargs or _takes_training(operation):
                kwargs = {**kwargs, "training": False}
            return operation(*args, **kwargs)

        def get_config(self) -> dict[str, Any]:
            config = super().get_config() | {"number": self.number}
            config.pop("trainable", None)
            return config

    return Kept


def kept_scope() -> Any:
    """Where tfmot finds the class of layers that are called as they are."""
    _, tf_keras = toolkit()
    return tf_keras.utils.custom_object_scope({"Kept": kept_class()})


def _takes_training(operation: Any) -> bool:
    return (
        isinstance(operation, keras.layers.Layer) and operation._call_has_training_arg
    )


def _reason_to_keep(operation: Any, args: Any, kwargs: Any) -> str | None:
    """Why an operation cannot be rebuilt; None if it can."""
    name = type(operation).__name__
    known = getattr(keras.layers, name, None)
    if type(operation) is not known:
        return "not a stock layer of Keras"
    if name not in _REBUILT:
        return f"tfmot does not know {name}"
    extra = {k for k, v in kwargs.items() if v is not None and k != "training"}
    if len(args) != 1 or extra:
        return "called with further arguments"
    if getattr(operation, "data_format", None) == "channels_first":
        return "channels come first"
    if getattr(operation, "groups", 1) != 1:
        return "a grouped convolution"
    if operation.compute_dtype != "float32":
        return f"computes in {operation.compute_dtype}"
    if isinstance(operation.get_config().get("activation"), dict):
        return "an activation that is no name"
    return None


def _plain_config(layer: Any, kind: type) -> dict[str, Any]:
    """Arguments that the legacy class takes and that are no objects of Keras 3."""
    known = {
        name
        for base in kind.__mro__
        for name in inspect.signature(base.__init__).parameters
    }
    config = {}
    for key, value in layer.get_config().items():
        key = _RENAMED.get((type(layer).__name__, key), key)
        if key in known and not isinstance(value, dict) and key != "dtype":
            config[key] = value
    return config


def _is_symbolic(value: Any) -> bool:
    return hasattr(value, "_keras_history")


def _check(legacy: Legacy) -> None:
    """Raises unless both models give the same for the same random inputs."""
    random = np.random.default_rng(0)
    feeds = []
    for tensor in graph_of(legacy.source).inputs:
        shape = [n or (2 if i == 0 else 32) for i, n in enumerate(tensor.shape)]
        whole = "int" in str(tensor.dtype)
        made = random.integers(0, 2, shape) if whole else random.random(shape)
        feeds.append(tf.constant(made, dtype=tensor.dtype))
    graph = graph_of(legacy.source)
    packed = keras.tree.pack_sequence_as(graph._inputs_struct, feeds)
    expected = keras.tree.flatten(legacy.source(packed, training=False))
    found = tf.nest.flatten(legacy.model(feeds, training=False))
    for a, b in zip(expected, found, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if np.abs(a - b).max() > _TOLERANCE * max(np.abs(a).max(), 1e-6):
            raise UnsupportedModelError(
                f"Model '{legacy.source.name}' computes something else when it is "
                "rebuilt in tf_keras; it cannot be trained there. Received: outputs "
                f"that differ by {np.abs(a - b).max():g}"
            )
