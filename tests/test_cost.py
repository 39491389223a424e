"""Costs against numbers worked out by hand, and against published tables."""

import keras
import numpy as np
import pytest

from tfcompress.cost import _MACS, layer_specs, model_cost
from tfcompress.errors import UnsupportedModelError
from tfcompress.spec import Cost, positions

L = keras.layers


def one(layer, *shapes, **kwargs):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(*inputs, **kwargs))


# layer, input shape, params, MACs
BY_HAND = {
    "Dense": (lambda: L.Dense(7), (5,), 5 * 7 + 7, 5 * 7),
    "Dense 3-D": (lambda: L.Dense(7), (4, 5), 5 * 7 + 7, 4 * 5 * 7),
    "Dense 4-D": (lambda: L.Dense(7, use_bias=False), (2, 4, 5), 35, 2 * 4 * 35),
    "Conv1D": (lambda: L.Conv1D(6, 3), (10, 4), 3 * 24 + 6, 8 * 3 * 24),
    "Conv1D causal": (
        lambda: L.Conv1D(6, 3, padding="causal", dilation_rate=2),
        (10, 4),
        78,
        10 * 72,
    ),
    "Conv2D": (lambda: L.Conv2D(6, 3), (8, 9, 4), 9 * 24 + 6, 6 * 7 * 9 * 24),
    "Conv2D strided": (
        lambda: L.Conv2D(6, 3, strides=2, padding="same"),
        (9, 8, 4),
        222,
        5 * 4 * 9 * 24,
    ),
    "Conv2D grouped": (
        lambda: L.Conv2D(6, 3, groups=2),
        (8, 8, 4),
        9 * 2 * 6 + 6,
        36 * 9 * 2 * 6,
    ),
    "Conv2D channels first": (
        lambda: L.Conv2D(6, 3, data_format="channels_first"),
        (4, 8, 9),
        222,
        6 * 7 * 9 * 24,
    ),
    "Conv3D": (
        lambda: L.Conv3D(5, 2, strides=2),
        (4, 6, 8, 3),
        8 * 15 + 5,
        2 * 3 * 4 * 8 * 15,
    ),
    "DepthwiseConv1D": (
        lambda: L.DepthwiseConv1D(3, depth_multiplier=2),
        (10, 4),
        3 * 8 + 8,
        8 * 3 * 8,
    ),
    "DepthwiseConv2D": (
        lambda: L.DepthwiseConv2D(3, strides=2, padding="same"),
        (8, 8, 4),
        9 * 4 + 4,
        16 * 9 * 4,
    ),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(6, 3),
        (10, 4),
        12 + 24 + 6,
        8 * (12 + 24),
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(6, 3, depth_multiplier=2),
        (8, 8, 4),
        72 + 48 + 6,
        36 * (72 + 48),
    ),
    # Each input position is multiplied with the whole kernel once.
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(6, 3, strides=2), (5, 4), 78, 5 * 72),
    "Conv2DTranspose": (
        lambda: L.Conv2DTranspose(6, 3, strides=2),
        (5, 7, 4),
        222,
        35 * 9 * 24,
    ),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(2, 2), (3, 4, 5, 3), 50, 60 * 48),
    "EinsumDense": (
        lambda: L.EinsumDense("abc,cd->abd", (None, 7), bias_axes="d"),
        (4, 5),
        42,
        4 * 35,
    ),
    "EinsumDense heads": (
        lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (4, 5),
        30,
        4 * 30,
    ),
    "EinsumDense joins heads": (
        lambda: L.EinsumDense("abcd,cde->abe", (None, 7)),
        (4, 2, 3),
        42,
        4 * 42,
    ),
    "EinsumDense ellipsis": (
        lambda: L.EinsumDense("...x,xy->...y", 7),
        (3, 4, 5),
        35,
        12 * 35,
    ),
    "EinsumDense ellipsis behind": (
        lambda: L.EinsumDense("ab...,bc->ac...", (2, 7, 3)),
        (5, 7, 3),
        10,
        10 * 21,
    ),
    "TimeDistributed": (
        lambda: L.TimeDistributed(L.Dense(7)),
        (4, 5),
        42,
        4 * 35,
    ),
    "TimeDistributed model": (
        lambda: L.TimeDistributed(
            keras.Sequential([keras.Input((8, 8, 4)), L.Conv2D(6, 3)])
        ),
        (3, 8, 8, 4),
        222,
        3 * 36 * 9 * 24,
    ),
    "BatchNormalization": (lambda: L.BatchNormalization(), (4, 5), 20, 0),
    "Embedding": (lambda: L.Embedding(10, 4), (6,), 40, 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    make, shape, params, macs = BY_HAND[case]
    model = one(make(), shape)
    assert model.count_params() == params
    assert model_cost(model) == Cost(params, macs, 4 * params)


def test_every_counted_kind_is_tested():
    kinds = {type(make()) for make, *_ in BY_HAND.values()}
    assert set(_MACS) - kinds == {L.MultiHeadAttention, L.GroupQueryAttention}


def attention_macs(length, dim, heads, key, value):
    projections = (
        length * dim * heads * (2 * key + value) + length * heads * value * dim
    )
    return projections + heads * length * length * (key + value)


@pytest.mark.parametrize("value", [None, 5])
def test_self_attention(value):
    layer = L.MultiHeadAttention(2, 3, value_dim=value)
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layer(inputs, inputs))
    assert model_cost(model).macs == attention_macs(6, 8, 2, 3, value or 3)
    assert model_cost(model).params == model.count_params()
    specs = {spec.name: spec for spec in layer_specs(model)}
    own = specs[layer.name]
    assert own.cost == (0, 2 * 6 * 6 * (3 + (value or 3)), 0), "the scores"
    assert own.options == () and "one by one" in own.reason
    for name, macs in (("query", 6 * 8 * 6), ("key", 6 * 8 * 6)):
        part = specs[f"{layer.name}/{name}"]
        assert part.kind == "EinsumDense" and part.options == ("FactorizedEinsumDense",)
        assert part.cost == (8 * 6 + 6, macs, 4 * (8 * 6 + 6))
    width = 2 * (value or 3)
    last = specs[f"{layer.name}/attention_output"]
    assert last.cost.macs == 6 * width * 8
    total = [sum(spec.cost[i] for spec in specs.values()) for i in range(3)]
    assert tuple(total) == model_cost(model)


def test_grouped_attention():
    layer = L.GroupQueryAttention(3, 4, 2, use_gate=True)
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layer(inputs, inputs))
    # Query, gate and output of four heads, key and value of two.
    projections = 6 * 8 * 3 * (3 * 4 + 2 * 2)
    assert model_cost(model).macs == projections + 4 * 6 * 6 * 2 * 3
    names = [spec.name.split("/")[-1] for spec in layer_specs(model)][-5:]
    assert names == ["query", "key", "value", "gate", "attention_output"]


def test_shared_attention_is_counted_for_each_call():
    layer = L.MultiHeadAttention(2, 3)
    inputs = keras.Input((6, 8))
    once = keras.Model(inputs, layer(inputs, inputs))
    twice = keras.Model(inputs, layer(layer(inputs, inputs), inputs))
    assert model_cost(twice).macs == 2 * model_cost(once).macs
    assert model_cost(twice).params == model_cost(once).params
    assert len(layer_specs(twice)) == len(layer_specs(once)) == 6


def test_shared_layer_is_counted_for_each_call():
    a, b = keras.Input((4, 5)), keras.Input((3, 5))
    dense = L.Dense(7)
    model = keras.Model([a, b], [dense(a), dense(b)])
    cost = model_cost(model)
    assert (cost.params, cost.macs) == (42, (4 + 3) * 35)
    (spec,) = [s for s in layer_specs(model) if s.layer is dense]
    assert sorted(call.input_shape for call in spec.calls) == [(3, 5), (4, 5)]


def test_nested_model_called_twice():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(5), L.Dense(5)])
    inputs = keras.Input((5,))
    cost = model_cost(keras.Model(inputs, inner(inner(inputs))))
    assert (cost.params, cost.macs) == (60, 100)


def test_bytes_follow_the_stored_type():
    model = one(L.Dense(7, dtype="float16"), (5,))
    assert model_cost(model).bytes == 2 * 42
    mixed = one(L.Dense(7, dtype="mixed_bfloat16"), (5,))
    assert model_cost(mixed).bytes == 4 * 42, "mixed precision keeps float32 weights"


def test_open_input_sizes_must_be_given():
    model = one(L.Conv2D(6, 3), (None, None, 4))
    with pytest.raises(UnsupportedModelError, match="open shape .* say its size"):
        model_cost(model)
    assert model_cost(model, (8, 9, 4)).macs == 6 * 7 * 9 * 24


def test_costing_changes_nothing():
    model = keras.Sequential([keras.Input((5,)), L.Dense(3), L.BatchNormalization()])
    before = [np.array(v) for v in model.variables]
    call = keras.layers.Layer.__call__
    model_cost(model)
    assert keras.layers.Layer.__call__ is call
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "macs"),
    [("VGG16", 15.47e9), ("ResNet50", 3.86e9), ("MobileNetV2", 0.300e9)],
)
def test_published_numbers(name, macs):
    """VGG16 15.5 G, ResNet50 3.86 G (He et al. 3.8), MobileNetV2 300 M (its paper)."""
    model = getattr(keras.applications, name)(weights=None)
    cost = model_cost(model)
    assert cost.macs == pytest.approx(macs, rel=0.01)
    assert cost.params == model.count_params()


def test_sums_and_positions():
    assert Cost(1, 2, 3).plus(Cost(10, 20, 30)) == Cost(11, 22, 33)
    assert positions((5,)) == 1 and positions((3, 4, 5)) == 12
