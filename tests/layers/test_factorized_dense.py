"""FactorizedDense against the Dense layer it replaces."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.errors import RankError
from tfcompress.layers import FactorizedDense

L = keras.layers

CASES = {
    "wide": (dict(units=40), (24,)),
    "tall": (dict(units=12, activation="relu"), (64,)),
    "one input": (dict(units=9), (1,)),
    "one unit": (dict(units=1, activation="sigmoid"), (30,)),
    "512 inputs": (dict(units=128, use_bias=False), (512,)),
    "sequence": (dict(units=16, activation="gelu"), (5, 24)),
    "image": (dict(units=8), (4, 3, 24)),
    "regularized": (
        dict(
            units=16,
            kernel_regularizer="l2",
            bias_regularizer=keras.regularizers.L1(0.1),
            activity_regularizer="l2",
            bias_constraint="non_neg",
        ),
        (20,),
    ),
    "frozen": (dict(units=16, trainable=False, name="frozen_one"), (20,)),
}
TFLITE = {"tall", "sequence"}


@pytest.mark.parametrize("case", CASES)
def test_conformance(case):
    options, shape = CASES[case]
    layer = L.Dense(**options)
    c.check_layer_type(FactorizedDense, layer, shape, tflite=case in TFLITE)


@pytest.mark.parametrize("case", ["wide", "sequence", "regularized"])
def test_conformance_in_mixed_precision(case):
    options, shape = CASES[case]
    layer = L.Dense(**options, dtype="mixed_bfloat16")
    c.check_layer_type(FactorizedDense, layer, shape)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_conformance_of_any_geometry(data):
    inputs, units = data.draw(st.integers(1, 48)), data.draw(st.integers(1, 48))
    rank = data.draw(st.integers(1, min(inputs, units)))
    lead = data.draw(st.lists(st.integers(1, 3), max_size=2))
    layer = L.Dense(units, use_bias=data.draw(st.booleans()))
    seed = data.draw(st.integers(0, 99))
    c.check_layer_type(FactorizedDense, layer, (*lead, inputs), (rank,), seed=seed)


def built(**options):
    layer = L.Dense(12, **options)
    layer.build((None, 8))
    return c.randomize(layer)


@pytest.mark.parametrize("regularizer", ["l2", "l1", "orthogonal_regularizer"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_kernel_regularizer_gives_the_loss_of_the_dense_layer(regularizer, policy):
    dense = built(kernel_regularizer=regularizer, bias_regularizer="l2", dtype=policy)
    full = FactorizedDense.from_layer(dense, 8)
    for layer in (dense, full):
        layer(np.ones((1, 8), "float32"))
    expected = sorted(map(float, dense.losses))
    np.testing.assert_allclose(sorted(map(float, full.losses)), expected, rtol=1e-4)


def test_kernel_regularizer_counts_once_however_often_the_layer_is_called():
    layer = L.Dense(8, kernel_regularizer="l2")
    layer.build((None, 8))
    full = FactorizedDense.from_layer(c.randomize(layer), 8)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, full(full(full(inputs))))
    model(np.ones((1, 8), "float32"))
    assert float(sum(model.losses)) == pytest.approx(float(layer.losses[0]), rel=1e-4)


def test_kernel_regularizer_reaches_both_factors_and_rests_when_frozen():
    dense = built(kernel_regularizer="l2")
    low = FactorizedDense.from_layer(dense, 3)
    with tf.GradientTape() as tape:
        loss = sum(low.losses)
    for gradient in tape.gradient(loss, [low.u.value, low.v.value]):
        assert float(tf.norm(gradient)) > 0.0
    low.trainable = dense.trainable = False
    assert low.losses == dense.losses == []


def test_kernel_regularizer_takes_part_in_training():
    dense = built(kernel_regularizer=keras.regularizers.L2(1.0), use_bias=False)
    model = keras.Sequential([keras.Input((8,)), FactorizedDense.from_layer(dense, 4)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    zeros = np.zeros((32, 8), "float32")
    model.fit(zeros, np.zeros((32, 12), "float32"), epochs=30, verbose=0)
    after = np.linalg.norm(model.layers[0].kernel())
    assert after < 0.2 * np.linalg.norm(dense.kernel)


def test_activity_regularizer_is_kept():
    dense = built(activity_regularizer=keras.regularizers.L2(0.1))
    full = FactorizedDense.from_layer(dense, 8)
    x = c.normal((4, 8))
    dense(x), full(x)
    np.testing.assert_allclose(full.losses[0], dense.losses[0], rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradient_flows_to_every_weight(policy):
    low = FactorizedDense.from_layer(built(dtype=policy), 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.cast(low(c.normal((4, 8))), "float32")))
    gradients = tape.gradient(loss, [w.value for w in low.trainable_weights])
    assert len(gradients) == 3
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)) and float(tf.norm(gradient)) > 0.0


def test_fine_tuning_recovers_a_low_rank_target():
    """Training moves both factors: a target of the same rank is reached."""
    dense = built(use_bias=False)
    target = FactorizedDense.from_layer(dense, 3)
    start = FactorizedDense.from_layer(c.randomize(built(use_bias=False), seed=5), 3)
    model = keras.Sequential([keras.Input((8,)), start])
    x = c.normal((256, 8))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    y = c.as_array(target(x))
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=40, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.01 * before


def test_mask_passes_through():
    model = keras.Sequential(
        [
            keras.Input((6, 8)),
            L.Masking(),
            FactorizedDense.from_layer(built(), 8),
            L.GlobalAveragePooling1D(),
        ]
    )
    x = c.normal((1, 6, 8))
    x[:, 3:] = 0.0
    np.testing.assert_allclose(model(x), model(x[:, :3]), rtol=1e-4, atol=1e-6)


def test_factors_are_balanced():
    low = FactorizedDense.from_layer(built(), 4)
    u, v = low.factors().values()
    np.testing.assert_allclose(u.T @ u, v @ v.T, atol=1e-5)


def test_zero_kernel():
    dense = L.Dense(5, kernel_initializer="zeros")
    dense.build((None, 4))
    low = FactorizedDense.from_layer(dense, 2)
    np.testing.assert_array_equal(low.kernel(), np.zeros((4, 5)))
    np.testing.assert_array_equal(low.truncate(1).kernel(), np.zeros((4, 5)))


def test_broken_kernel_raises():
    dense = built()
    dense.kernel.assign(np.full((8, 12), np.nan))
    with pytest.raises(ValueError, match="NaN or infinity"):
        FactorizedDense.from_layer(dense, 2)


def quantized():
    layer = built()
    layer.quantize("int8")
    return layer


def with_lora():
    layer = built()
    layer.enable_lora(2)
    return layer


def depthwise():
    layer = L.DepthwiseConv2D(3)
    layer.build((None, 8, 8, 4))
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: L.Dense(4), "it is not built"),
        (lambda: built(kernel_constraint="max_norm"), "kernel constraint"),
        (with_lora, "LoRA is enabled"),
        (quantized, "quantized to int8"),
        (depthwise, "it is no Dense"),
    ],
)
def test_unsupported_layers_give_a_reason(make, reason):
    with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
        FactorizedDense.from_layer(make(), 2)


@pytest.mark.parametrize("ranks", [0, -1, 9, (2, 2), (), 2.0, True, "2"])
def test_rank_errors(ranks):
    with pytest.raises(RankError, match="ranks must be"):
        FactorizedDense.from_layer(built(), ranks)


def test_ranks_may_be_numpy_integers_and_sequences():
    for ranks in (3, np.int64(3), (3,), [3], np.array([3])):
        assert FactorizedDense.from_layer(built(), ranks).ranks == (3,)


def test_truncation_cannot_raise_the_rank():
    low = FactorizedDense.from_layer(built(), 3)
    with pytest.raises(RankError, match=r"can only fall from \(3,\). Received: ranks="):
        low.truncate(4)
    with pytest.raises(RankError, match="positive integer"):
        low.truncate(0)


def test_wrong_input_size_is_refused():
    low = FactorizedDense.from_layer(built(), 3)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        low(np.ones((2, 7), "float32"))
