"""Batch normalization folded into the layer before it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.surgery.chains import chained
from tfcompress.surgery.replace import replace_layers
from tfcompress.trace import leaves

L = keras.layers
_FOLDABLE = (
    L.Conv1D,
    L.Conv2D,
    L.Conv3D,
    L.DepthwiseConv1D,
    L.DepthwiseConv2D,
    L.Dense,
)
_DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy in which batch normalization is part of the layer before it.

    As TFLite's converter does it, and as quantization wants it (Jacob et al. 2017,
    section 3.2): for inference only. Where a convolution or dense layer has no
    activation, and batch normalization of the last axis is the only one to read it, the
    kernel is scaled, the bias takes the rest, and an Identity stands in its place.

    Args:
        model: a built model of stock layers (see `expand`), nested ones included; it is
            not changed.

    Returns:
        A new, uncompiled model with the same outputs in inference mode.
    """
    paths = {id(layer): path for path, layer in leaves(model)}
    replacements: dict[str, keras.layers.Layer] = {}
    for layer, norm in chained(model):
        if not _can_fold(layer, norm):
            continue
        replacements[paths[id(layer)]] = _folded(layer, norm)
        identity = L.Identity(name=norm.name, dtype=norm.dtype_policy.name)
        identity.build(norm._build_shapes_dict["input_shape"])
        replacements[paths[id(norm)]] = identity
    return replace_layers(model, replacements)


def _can_fold(layer: Any, norm: Any) -> bool:
    return (
        type(layer) in _FOLDABLE
        and type(norm) is L.BatchNormalization
        and norm.axis in (-1, len(layer.output.shape) - 1)
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", None) != "channels_first"
    )


def _folded(layer: Any, norm: Any) -> Any:
    mean = np.asarray(norm.moving_mean, np.float64)
    variance = np.asarray(norm.moving_variance, np.float64)
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    if norm.center:
        shift = shift + np.asarray(norm.beta, np.float64)
    if layer.use_bias:
        shift = shift + np.asarray(layer.bias, np.float64) * scale
    kernel = np.asarray(layer.kernel, np.float64)
    shaped = scale.reshape(kernel.shape[-2:]) if type(layer) in _DEPTHWISE else scale
    config = layer.get_config() | {"use_bias": True}
    new = type(layer).from_config(config)
    new.build(layer._build_shapes_dict["input_shape"])
    new.set_weights([kernel * shaped, shift])
    return new
