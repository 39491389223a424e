"""Parameters, multiply-accumulates and bytes of layers and models, from shapes alone.

Counted as MACs: kernels of dense, convolution and attention layers. Element-wise work
(normalization, activation, pooling, addition) is not, as in the papers' tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.layers import FactorizedLayer, kernel_shape_of, registry
from tfcompress.spec import ZERO, Call, Cost, LayerSpec, positions
from tfcompress.trace import descendants, leaves, trace_calls


def _spatial_size(shape: tuple[int, ...], layer: Any) -> int:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return math.prod(shape[:-1] if last else shape[1:])


def _conv(layer: Any, call: Call) -> int:
    # kernel: (*k, in / groups, out): groups are in the shape already.
    return _spatial_size(call.output_shape, layer) * math.prod(kernel_shape_of(layer))


def _conv_transpose(layer: Any, call: Call) -> int:
    return _spatial_size(call.input_shape, layer) * math.prod(kernel_shape_of(layer))


def _separable(layer: Any, call: Call) -> int:
    each = math.prod(layer.depthwise_kernel.shape)
    each += math.prod(kernel_shape_of(layer))
    return _spatial_size(call.output_shape, layer) * each


def _dense(layer: Any, call: Call) -> int:
    return positions(call.input_shape) * math.prod(kernel_shape_of(layer))


def _einsum_dense(layer: Any, call: Call) -> int:
    # Every axis of the kernel is one of the inputs or of the outputs.
    inputs, rest = layer.equation.split(",")
    sizes = _sizes(rest.split("->")[1], call.output_shape)
    return math.prod((sizes | _sizes(inputs, call.input_shape)).values())


def _sizes(term: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Axis sizes of one sample: the batch has size 1, wherever the equation puts it.

    Axes under an ellipsis get names of their own.
    """
    hidden = "0123456789"[: len(shape) + 1 - len(term.replace("...", ""))]
    return dict(zip(term.replace("...", hidden), (1, *shape), strict=True))


def _attention(layer: Any, call: Call) -> int:
    # Scores and weighted sum; the projections are layers of their own. Self-attention
    # is assumed for the length of the keys.
    length = math.prod(call.input_shape[:-1])
    per_head = layer._key_dim + (layer._value_dim or layer._key_dim)
    return length * length * layer._num_heads * per_head


def _grouped_attention(layer: Any, call: Call) -> int:
    # As `_attention`: groups share keys and values, but every query is scored.
    length = math.prod(call.input_shape[:-1])
    return length * length * layer.num_query_heads * 2 * layer.head_dim


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
    keras.layers.GroupQueryAttention: _grouped_attention,
    keras.layers.MultiHeadAttention: _attention,
    keras.layers.TimeDistributed: _time_distributed,
}


def _own_macs(layer: keras.layers.Layer, calls: tuple[Call, ...]) -> int:
    if isinstance(layer, FactorizedLayer):
        stand_in = _bare_spec(layer, calls)
        return layer.macs(stand_in, layer.kernel_shape(), layer.ranks)
    return _stock_macs(type(layer), layer, calls)


def _stock_macs(kind: type, layer: Any, calls: tuple[Call, ...]) -> int:
    """MACs of a layer of a stock class, or of what a factorized one stands for."""
    for cls in kind.__mro__:
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
    params = math.prod(layer.kernel_shape()) + layer.kept_params(layer)
    macs = _stock_macs(layer.targets[0], layer, calls)
    return Cost(params, macs, params * size)


def _cost(layer: keras.layers.Layer, traced: dict[int, tuple[Call, ...]]) -> Cost:
    """Cost of a layer, without parts that are listed by themselves."""
    parts = registry.parts(layer).values()
    apart = {id(inner) for part in parts for inner in descendants(part)}
    own = [inner for inner in descendants(layer) if id(inner) not in apart]
    macs = sum(_own_macs(inner, traced.get(id(inner), ())) for inner in own)
    params = layer.count_params() if layer.built else 0
    params -= sum(part.count_params() for part in parts)
    size = _bytes(layer) - sum(map(_bytes, parts))
    return Cost(params, macs, size)


def layer_specs(model: keras.Model, input_shapes: Any = None) -> list[LayerSpec]:
    """Every layer of a model with its calls and cost.

    The projections of attention are listed by themselves; the row of the attention
    layer counts what remains, the scores.

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
        cost = _cost(layer, traced)
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
