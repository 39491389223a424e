"""Parameters, multiply-accumulates and bytes of layers and models, from shapes alone.

Counted as MACs: kernels of dense, convolution and attention layers. Element-wise work
(normalization, activation, pooling, addition) is not, as in the papers' tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.layers import FactorizedLayer, registry
from tfcompress.spec import ZERO, Call, Cost, LayerSpec, positions
from tfcompress.trace import descendants, leaves, trace_calls


def _spatial_size(shape: tuple[int, ...], layer: Any) -> int:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return math.prod(shape[:-1] if last else shape[1:])


def _conv(layer: Any, call: Call) -> int:
    # kernel: (*k, in / groups, out): groups are in the shape already.
    return _spatial_size(call.output_shape, layer) * math.prod(layer.kernel.shape)


def _conv_transpose(layer: Any, call: Call) -> int:
    return _spatial_size(call.input_shape, layer) * math.prod(layer.kernel.shape)


def _separable(layer: Any, call: Call) -> int:
    each = math.prod(layer.depthwise_kernel.shape)
    each += math.prod(layer.pointwise_kernel.shape)
    return _spatial_size(call.output_shape, layer) * each


def _dense(layer: Any, call: Call) -> int:
    return positions(call.input_shape) * math.prod(layer.kernel.shape)


def _einsum_dense(layer: Any, call: Call) -> int:
    inputs, kernel = layer.equation.split("->")[0].split(",")
    # One sample: the batch has size 1, wherever the equation puts it. Axes under an
    # ellipsis get names of their own. Every output axis is one of these.
    shape = (1, *call.input_shape)
    hidden = "0123456789"[: len(shape) - len(inputs.replace("...", ""))]
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    sizes |= dict(zip(inputs.replace("...", hidden), shape, strict=True))
    return math.prod(sizes.values())


def _attention(layer: Any, call: Call) -> int:
    # Scores and weighted sum; the projections are layers of their own. Self-attention
    # is assumed for the length of the keys.
    length = math.prod(call.input_shape[:-1])
    per_head = layer._key_dim + (layer._value_dim or layer._key_dim)
    return length * length * layer._num_heads * per_head


def _time_distributed(layer: Any, call: Call) -> int:
    # It runs the `call` of the layer within, which no trace sees, once for each step.
    step = Call(call.input_shape[1:], call.output_shape[1:])
    return call.input_shape[0] * _own_macs(layer.layer, (step,))


_MACS: dict[type, Callable[[Any, Call], int]] = {
    keras.layers.Dense: _dense,
    keras.layers.EinsumDense: _einsum_dense,
    keras.layers.Conv1D: _conv,
    keras.layers.Conv2D: _conv,
    keras.layers.Conv3D: _conv,
    keras.layers.DepthwiseConv1D: _conv,
    keras.layers.DepthwiseConv2D: _conv,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Conv1DTranspose: _conv_transpose,
    keras.layers.Conv2DTranspose: _conv_transpose,
    keras.layers.Conv3DTranspose: _conv_transpose,
    keras.layers.MultiHeadAttention: _attention,
    keras.layers.TimeDistributed: _time_distributed,
}


def _own_macs(layer: keras.layers.Layer, calls: tuple[Call, ...]) -> int:
    if isinstance(layer, FactorizedLayer):
        stand_in = _bare_spec(layer, calls)
        return layer.macs(stand_in, layer.kernel_shape(), layer.ranks)
    for cls in type(layer).__mro__:
        if cls in _MACS:
            return sum(_MACS[cls](layer, call) for call in calls)
    return 0


def _bytes(layer: keras.layers.Layer) -> int:
    return sum(math.prod(w.shape) * _itemsize(w.dtype) for w in layer.weights)


def _itemsize(dtype: str) -> int:
    if dtype == "bool":
        return 1
    return int("".join(c for c in dtype if c.isdigit()) or 32) // 8


def _bare_spec(layer: Any, calls: tuple[Call, ...]) -> LayerSpec:
    options, reason = registry.options(layer)
    return LayerSpec(
        name=layer.name,
        kind=type(layer).__name__,
        calls=calls,
        cost=ZERO,
        dense=ZERO,
        options=options,
        reason=reason,
        layer=layer,
    )


def _dense_cost(layer: FactorizedLayer, calls: tuple[Call, ...], size: int) -> Cost:
    """Cost of the stock layer that a factorized one stands for."""
    shape = layer.kernel_shape()
    params = math.prod(shape) + (shape[-1] if layer.use_bias else 0)
    if len(shape) == 2:
        macs = sum(positions(call.input_shape) for call in calls) * math.prod(shape)
    else:
        places = sum(_spatial_size(call.output_shape, layer) for call in calls)
        macs = places * math.prod(shape)
    return Cost(params, macs, params * size)


def layer_specs(model: keras.Model, input_shapes: Any = None) -> list[LayerSpec]:
    """Every layer of a model with its calls and cost.

    Args:
        model: a built model; it is not changed.
        input_shapes: shapes without batch, where the model leaves them open.

    Returns:
        One `LayerSpec` for each layer, in the model's order.

    Raises:
        UnsupportedModelError: see `tfcompress.trace.trace_calls`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> [spec.cost.params for spec in layer_specs(model)]
        [36]
    """
    traced = trace_calls(model, input_shapes)
    specs = []
    for path, layer in leaves(model):
        calls = traced.get(id(layer), ())
        macs = sum(
            _own_macs(inner, traced.get(id(inner), ())) for inner in descendants(layer)
        )
        cost = Cost(layer.count_params() if layer.built else 0, macs, _bytes(layer))
        options, reason = registry.options(layer)
        if not calls and options:
            options, reason = (), "never called"
        dense = cost
        if isinstance(layer, FactorizedLayer):
            size = cost.bytes // max(cost.params, 1)
            dense = _dense_cost(layer, calls, size)
        specs.append(
            LayerSpec(
                name=path,
                kind=type(layer).__name__,
                calls=calls,
                cost=cost,
                dense=dense,
                options=options,
                reason=reason,
                layer=layer,
            )
        )
    return specs


def model_cost(model: keras.Model, input_shapes: Any = None) -> Cost:
    """Parameters, MACs and bytes of a whole model for one sample.

    Args:
        model: a built model; it is not changed.
        input_shapes: shapes without batch, where the model leaves them open.

    Returns:
        `Cost(params, macs, bytes)`; `params` equals `model.count_params()`.

    Raises:
        UnsupportedModelError: see `tfcompress.trace.trace_calls`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model_cost(model)
        Cost(params=36, macs=32, bytes=144)
    """
    macs = sum(spec.cost.macs for spec in layer_specs(model, input_shapes))
    return Cost(model.count_params(), macs, _bytes(model))
