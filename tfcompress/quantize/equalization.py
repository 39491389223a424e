"""Channels brought to the same size before quantization, without any training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.deploy import CalibrationError
from tfcompress.surgery import expand
from tfcompress.surgery.chains import chained, graph_of
from tfcompress.surgery.fold import fold_batch_norm
from tfcompress.trace import leaves

L = keras.layers
_LINEAR = (L.Conv1D, L.Conv2D, L.Conv3D, L.DepthwiseConv2D, L.Dense)
# Functions f with f(a x) = a f(x) for positive a.
_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu)
_SMALLEST = 1e-8


def equalize(
    model: keras.Model, calibration: Any = None, *, steps: int = 32
) -> keras.Model:
    """A copy in which the channels between two layers are equally large.

    One int8 scale serves all channels of an activation: a small channel beside a large
    one has few steps left. Between two layers with nothing but a ReLU each channel can
    be divided by a number, and the next kernel multiplied by it, and the outputs stay
    what they are. The number is the root of the channel's largest activation over its
    largest weight in the next kernel. The factors of a factorized layer are such
    layers.

    Factorized layers are expanded, and batch normalization folded.

    Args:
        model: a built Sequential or Functional model; it is not changed.
        calibration: inputs, or batches of inputs or `(inputs, ...)`, that activations
            are measured on; without them a channel's size is taken from its weights.
        steps: batches to use at most.

    Returns:
        A new model of stock layers with the same outputs.

    Raises:
        CalibrationError: no batches.
        UnsupportedModelError: the model cannot be rebuilt.

    Reference: Nagel et al. 2019, "Data-free quantization through weight equalization
    and bias correction", arXiv:1906.04721, section 4.1.

    Example:
        >>> equal = equalize(model, images)
        >>> np.allclose(equal(images), model(images), atol=1e-5)
        True
    """
    new = fold_batch_norm(expand(model))
    pairs = [pair for pair in _pairs(new) if _fits(*pair)]
    if not pairs:
        return new
    sizes = _activations(new, [first for first, _ in pairs], calibration, steps)
    for first, second in pairs:
        kernel = np.asarray(first.kernel, np.float64)
        outputs = kernel.reshape(-1, _outputs(first))
        activation = sizes.get(id(first))
        if activation is None:
            activation = np.linalg.norm(outputs, axis=0)
        reads = _reads(second)
        scale = np.sqrt(
            np.maximum(activation, _SMALLEST) / np.maximum(reads, _SMALLEST)
        )
        # A channel that is never used stays as it is.
        scale[(activation <= _SMALLEST) | (reads <= _SMALLEST)] = 1.0
        weights = [(outputs / scale).reshape(kernel.shape)]
        if first.use_bias:
            weights.append(np.asarray(first.bias, np.float64) / scale)
        first.set_weights(weights)
        follower = np.asarray(second.kernel, np.float64)
        # Input channels are the last axis but one, of depthwise kernels too.
        second.set_weights([follower * scale[:, None], *second.get_weights()[1:]])
    return new


def _pairs(model: keras.Model) -> list[tuple[Any, Any]]:
    """First and second layers, with what stands between them and changes no sizes."""
    after = {id(layer): reader for layer, reader in chained(model)}
    found = []
    for _, layer in leaves(model):
        if type(layer) not in _LINEAR or layer.activation not in _HOMOGENEOUS:
            continue
        reader = after.get(id(layer))
        while reader is not None and _passes(reader):
            reader = after.get(id(reader))
        if reader is not None:
            found.append((layer, reader))
    return found


def _passes(layer: Any) -> bool:
    if type(layer) is L.ReLU:
        return layer.max_value is None and not layer.negative_slope + layer.threshold
    if type(layer) is L.Activation:
        return layer.activation in _HOMOGENEOUS
    pools = (L.MaxPooling2D, L.AveragePooling2D, L.GlobalAveragePooling2D)
    return type(layer) in (L.Identity, L.Dropout, L.ZeroPadding2D, *pools)


def _fits(first: Any, second: Any) -> bool:
    return (
        type(second) in _LINEAR
        and getattr(second, "groups", 1) == 1
        and getattr(first, "data_format", None) != "channels_first"
        and len(_reads(second)) == _outputs(first)
    )


def _outputs(layer: Any) -> int:
    shape = layer.kernel.shape
    depthwise = isinstance(layer, L.DepthwiseConv2D)
    return shape[-1] * shape[-2] if depthwise else shape[-1]


def _reads(layer: Any) -> np.ndarray:
    """Largest weight by input channel."""
    kernel = np.abs(np.asarray(layer.kernel, np.float64))
    return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1).max(axis=1)


def _activations(
    model: keras.Model, layers: list[Any], calibration: Any, steps: int
) -> dict[int, np.ndarray]:
    """Largest absolute activation of every channel of the layers, by `id`."""
    if calibration is None:
        return {}
    graph = graph_of(model)
    known = {id(layer) for layer in graph.layers}
    probed = [layer for layer in layers if id(layer) in known]
    probe = keras.Model(graph.inputs, [layer.output for layer in probed])

    @tf.function(reduce_retracing=True)
    def largest(inputs: Any) -> Any:
        outputs = tf.nest.flatten(probe(inputs, training=False))
        return [
            tf.reduce_max(tf.abs(x), axis=list(range(x.shape.rank - 1)))
            for x in outputs
        ]

    whole = isinstance(calibration, np.ndarray | tf.Tensor | Mapping)
    batches = [calibration] if whole else calibration
    found: list[np.ndarray] | None = None
    for batch in itertools.islice(batches, steps):
        inputs = batch[0] if isinstance(batch, tuple) else batch
        now = [np.asarray(x, np.float64) for x in largest(tf.nest.flatten(inputs))]
        found = (
            now
            if found is None
            else [np.maximum(a, b) for a, b in zip(found, now, strict=True)]
        )
    if found is None:
        raise CalibrationError("`calibration` yielded no batches. Received: none")
    return {id(layer): x for layer, x in zip(probed, found, strict=True)}
