"""Single layers taken out of their model to be timed: only their shapes are true."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.deploy.export import ExportError, export_tflite
from tfcompress.errors import OptionError, TfcompressError, nearest
from tfcompress.layers import FactorizedLayer, kernel_shape_of, registry
from tfcompress.spec import LayerSpec

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)

# Weights are positive and small: no value becomes denormal, infinite or undefined,
# which some processors take longer over.
_LARGEST_WEIGHT = 0.1


class LatencyError(TfcompressError, RuntimeError):
    """A layer cannot be timed by itself, or a latency table cannot be read."""


@dataclasses.dataclass(frozen=True)
class SingleLayer:
    """One layer called at one input shape: all that decides how long it takes.

    Attributes:
        name: path of the layer it was taken from; for messages only.
        cls: class of the layer.
        config: its configuration without names, initializers, regularizers,
            constraints and types.
        input_shape: shape of its input, without batch.
    """

    name: str
    cls: type
    config: Mapping[str, Any]
    input_shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """Text that is equal for layers that take equally long, and for no others."""
        data = {
            "layer": keras.saving.get_registered_name(self.cls),
            "config": self.config,
            "input": self.input_shape,
        }
        return json.dumps(data, sort_keys=True, default=str)

    def model(self, seed: int) -> keras.Model:
        """A model of the layer alone, in float32, with random weights.

        Raises:
            LatencyError: the layer does not work on one input tensor.
        """
        try:
            layer = self.cls.from_config({**self.config, "dtype": "float32"})
            inputs = keras.Input(self.input_shape, dtype=_input_type(layer))
            attention = isinstance(layer, _ATTENTION)
            outputs = layer(inputs, inputs) if attention else layer(inputs)
            model = keras.Model(inputs, outputs)
        # What layers of other libraries raise for a configuration or an input.
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise LatencyError(
                f"Layer '{self.name}' ({self.cls.__name__}) cannot be timed by itself, "
                "which takes a configuration and one input tensor; leave it out. "
                f"Received: {reason}"
            ) from error
        random = np.random.default_rng(seed)
        for weight in model.weights:
            if "float" in weight.dtype:
                value = random.random(weight.shape, dtype=np.float32)
                weight.assign(_LARGEST_WEIGHT * value)
        return model


def single_layers(
    spec: LayerSpec,
    layer_type: str | None = None,
    ranks: int | Sequence[int] | None = None,
) -> list[SingleLayer]:
    """The layer of a spec, as it is or factorized, once for each of its calls.

    Args:
        spec: from `tfcompress.cost.layer_specs`.
        layer_type: name of a factorized type; None for the layer as it is.
        ranks: of the factorized type.

    Raises:
        OptionError: a type without ranks, or one that cannot replace the layer.
        RankError: ranks out of range.
    """
    layer = spec.layer
    if layer_type is None:
        if not isinstance(layer, FactorizedLayer):
            return _at_calls(spec, type(layer), _lasting(layer.get_config()))
        # So that it shares its entry with the stock layer that was to become it.
        layer_type, ranks = spec.kind, layer.ranks
    if ranks is None:
        raise OptionError(
            f"Layer '{spec.name}': a factorized type needs ranks. "
            f"Received: layer_type={layer_type!r}, ranks=None"
        )
    if layer_type not in registry.options(layer)[0]:
        raise OptionError(
            f"Layer '{spec.name}' ({spec.kind}) cannot become a {layer_type}; "
            f"{nearest(layer_type, registry.options(layer)[0])}"
        )
    cls = registry.get(layer_type)
    ranks = cls.check_ranks(kernel_shape_of(layer), ranks)
    return _at_calls(spec, cls, {**_taken_over(layer, cls), "ranks": ranks})


def stock_layers(spec: LayerSpec) -> list[SingleLayer]:
    """The stock layer that a layer is or stands for, once for each of its calls."""
    cls = type(spec.layer)
    if not isinstance(spec.layer, FactorizedLayer):
        return single_layers(spec)
    stock = cls.targets[0]
    # Through a layer of that class, so that its own defaults are in the key.
    config = stock.from_config(_taken_over(spec.layer, cls)).get_config()
    return _at_calls(spec, stock, _lasting(config))


def export_single(single: SingleLayer, path: Path, *, seed: int) -> Path:
    """Writes a layer alone as a float32 `.tflite` file.

    Raises:
        LatencyError: the layer does not work alone, or cannot be exported.
    """
    try:
        return export_tflite(single.model(seed), path)
    except ExportError as error:
        raise LatencyError(
            f"Layer '{single.name}' cannot be timed by itself: {error}"
        ) from error


@contextlib.contextmanager
def light_collections() -> Iterator[None]:
    """Spares what lives already from garbage collection.

    The converter asks for full collections, which take half of the time of exporting
    a single layer in a process that holds TensorFlow.
    """
    if gc.get_freeze_count():
        # Somebody else's, whose objects must stay frozen.
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _at_calls(spec: LayerSpec, cls: type, config: dict[str, Any]) -> list[SingleLayer]:
    shapes = [call.input_shape for call in spec.calls]
    return [SingleLayer(spec.name, cls, config, shape) for shape in shapes]


def _taken_over(layer: Any, cls: type) -> dict[str, Any]:
    """What a layer of `cls` takes over from a stock layer, or from one of its own."""
    config = layer.get_config()
    return _lasting({key: config[key] for key in cls.config_keys() if key in config})


def _lasting(config: Any) -> Any:
    """A configuration without what takes no time, at any depth."""
    if isinstance(config, (list, tuple)):
        return [_lasting(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    idle = ("name", "trainable", "dtype", "quantization_config")
    endings = ("_initializer", "_regularizer", "_constraint")
    return {
        key: _lasting(value)
        for key, value in config.items()
        if key not in idle and not str(key).endswith(endings)
    }


def _input_type(layer: keras.layers.Layer) -> str:
    stock = (type(layer), *getattr(layer, "targets", ()))
    return "int32" if keras.layers.Embedding in stock else "float32"
