"""Quantization-aware training by tfmot, from Keras 3 to a `.tflite` file."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.deploy.export import Exporter
from tfcompress.deploy.interface import Interface, describe, name_outputs
from tfcompress.errors import OptionError
from tfcompress.quantize.legacy import Legacy, kept_scope, to_legacy, toolkit
from tfcompress.quantize.training import Progress, Training, train_twin
from tfcompress.surgery.chains import graph_of

# What training is to leave as pruning or clustering made it.
PRESERVE = ("sparsity", "clusters")
_CALIBRATION_STEPS = 16


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A network trained with the rounding of int8 in it.

    Attributes:
        source: the float Keras 3 model.
        model: the `tf_keras` model with its fake quantization.
        kept: layers that tfmot does not know, by name, with the reason. Their weights
            were not trained; the converter quantizes them by calibration.
        history: the loss of each epoch.

    Example:
        >>> trained = quantize_aware(model, train)                   # doctest: +SKIP
        >>> trained.predict(images).shape                            # doctest: +SKIP
        (32, 10)
    """

    source: keras.Model
    model: Any
    kept: dict[str, str]
    history: dict[str, list[float]]

    def predict(self, inputs: Any) -> Any:
        """Outputs with the rounding, of a batch, in the structure of the model's."""
        graph = graph_of(self.source)
        flat = tf.nest.flatten(self.model(keras.tree.flatten(inputs), training=False))
        return keras.tree.pack_sequence_as(graph._outputs_struct, flat)

    def export(
        self,
        path: str | os.PathLike,
        *,
        calibration: Any,
        io_dtype: str = "float32",
        input_shapes: Any = None,
        metadata: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
    ) -> Path:
        """Writes an int8 `.tflite` file and verifies it.

        Args:
            path, calibration, io_dtype, input_shapes, metadata, allow: as of
                `tfcompress.export_tflite`. Calibration serves what was not trained.

        Raises:
            ExportError: see `tfcompress.export_tflite`.
        """
        interface = describe(self.source, input_shapes)
        names = list(describe(self.source).specs)

        def call(feeds: dict[str, Any]) -> dict[str, Any]:
            fed = dict(zip(names, feeds.values(), strict=True))
            found = self.predict(_in_order(self.source, fed))
            return name_outputs(self.source, found)

        own = Interface(interface.specs, call, interface.by_name)
        with Exporter(self.source, interface=own) as exporter:
            return exporter.write(
                path,
                quantization="int8",
                calibration=calibration,
                io_dtype=io_dtype,
                metadata={"trained": "quantization aware", **(metadata or {})},
                allow=allow,
            )


def quantize_aware(
    model: keras.Model,
    train: tf.data.Dataset,
    *,
    teacher: keras.Model | None = None,
    training: Training | None = None,
    calibration_steps: int = _CALIBRATION_STEPS,
    preserve: Sequence[str] = (),
    skip: Sequence[str] = (),
    progress: Progress | None = None,
) -> QuantizedModel:
    """Trains a model with the rounding of int8 in it.

    The network is expanded to stock layers, its batch normalization folded, and rebuilt
    in `tf_keras`; tfmot puts fake quantization around every layer it knows. The ranges
    of the activations start from calibration batches.

    Args:
        model: a trained Sequential or Functional Keras 3 model; it is not changed.
        train: batches `(inputs, labels)`.
        teacher: whom to match; the float model itself by default.
        training: how long and how fast.
        calibration_steps: batches that the ranges start from.
        preserve: "sparsity" and "clusters": zeros stay zeros, and shared values shared,
            after `prune` and `cluster`.
        skip: names of layers to leave in float while training.
        progress: called with (epochs done, epochs in all, figures).

    Returns:
        What `export` makes an int8 file of.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt in tf_keras.
        OptionError: an argument out of range.

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 3.

    Example:
        >>> trained = quantize_aware(model, train)               # doctest: +SKIP
        >>> trained.export("small.tflite", calibration=images)   # doctest: +SKIP
    """
    unknown = set(preserve) - set(PRESERVE)
    if isinstance(preserve, str) or unknown:
        raise OptionError(f"`preserve` holds any of {PRESERVE}. Received: {preserve!r}")
    training = training or Training()
    legacy = to_legacy(model, fold=True)
    twin = _with_rounding(legacy, tuple(preserve), tuple(skip))
    _start_ranges(twin, train, calibration_steps)
    history = train_twin(twin, teacher or model, train, training, progress=progress)
    return QuantizedModel(model, twin, dict(legacy.kept), history)


def _with_rounding(
    legacy: Legacy, preserve: tuple[str, ...], skip: tuple[str, ...]
) -> Any:
    tfmot, tf_keras = toolkit()
    quantization = tfmot.quantization.keras
    scheme = _scheme(preserve)
    registry = scheme.get_quantize_registry()

    def annotate(layer: Any) -> Any:
        if layer.name in skip or not registry.supports(layer):
            return layer
        return quantization.quantize_annotate_layer(layer)

    with kept_scope(), quantization.quantize_scope():
        annotated = tf_keras.models.clone_model(legacy.model, clone_function=annotate)
        annotated.set_weights(legacy.model.get_weights())
        return quantization.quantize_apply(annotated, scheme)


def _scheme(preserve: tuple[str, ...]) -> Any:
    tfmot, _ = toolkit()
    combine = tfmot.experimental.combine
    if "clusters" in preserve:
        return combine.Default8BitClusterPreserveQuantizeScheme("sparsity" in preserve)
    if preserve:
        return combine.Default8BitPrunePreserveQuantizeScheme()
    from tensorflow_model_optimization.python.core.quantization.keras import (
        default_8bit,
    )

    return default_8bit.default_8bit_quantize_scheme.Default8BitQuantizeScheme()


def _start_ranges(twin: Any, train: tf.data.Dataset, steps: int) -> None:
    """Sets the ranges of activations to their means over some batches.

    tfmot starts them at [-6, 6] and moves them by a thousandth a step: a short
    training would never see the rounding it is for.
    """
    decay = tf.Variable(0.0, trainable=False)
    with _moving_by(decay):
        forward = tf.function(lambda x: twin(x, training=True), reduce_retracing=True)
        for count, batch in enumerate(itertools.islice(train, steps)):
            decay.assign(count / (count + 1))
            inputs = batch[0] if isinstance(batch, tuple) else batch
            forward(keras.tree.flatten(inputs))


@contextlib.contextmanager
def _moving_by(decay: tf.Variable) -> Iterator[None]:
    toolkit()
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    original = quant_ops.MovingAvgQuantize

    def moving(*args: Any, ema_decay: Any, **kwargs: Any) -> Any:
        return original(*args, ema_decay=decay, **kwargs)

    quant_ops.MovingAvgQuantize = moving
    try:
        yield
    finally:
        quant_ops.MovingAvgQuantize = original


def _in_order(model: keras.Model, feeds: Mapping[str, Any]) -> list[Any]:
    """Inputs by name, as the graph of the model has them."""
    struct = graph_of(model)._inputs_struct
    if isinstance(struct, Mapping):
        return keras.tree.flatten({key: feeds[key] for key in struct})
    names = [tensor.name for tensor in graph_of(model).inputs]
    return [feeds[name] for name in names]
