"""ChannelSVDConv2D against the Conv2D layer it replaces."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.errors import RankError
from tfcompress.layers import ChannelSVDConv2D

L = keras.layers

CASES = {
    "1x1": (dict(filters=12, kernel_size=1, activation="relu"), (6, 6, 10)),
    "1x1 strided": (dict(filters=12, kernel_size=1, strides=2), (7, 7, 10)),
    "3x3": (dict(filters=12, kernel_size=3, activation="relu"), (8, 8, 10)),
    "3x3 same strided": (
        dict(filters=12, kernel_size=3, strides=2, padding="same", use_bias=False),
        (9, 8, 6),
    ),
    "3x3 strided by axis": (
        dict(filters=6, kernel_size=3, strides=(1, 2), padding="same"),
        (8, 9, 4),
    ),
    "3x3 valid strided": (dict(filters=6, kernel_size=3, strides=(3, 2)), (11, 9, 4)),
    "3x3 dilated": (
        dict(filters=8, kernel_size=3, dilation_rate=(2, 3), activation="gelu"),
        (11, 12, 6),
    ),
    "3x3 same dilated": (
        dict(filters=8, kernel_size=3, dilation_rate=2, padding="same"),
        (9, 9, 5),
    ),
    "5x5": (dict(filters=7, kernel_size=5, padding="same"), (8, 8, 5)),
    "even kernel": (dict(filters=7, kernel_size=(2, 4), padding="same"), (8, 8, 5)),
    "3x1": (dict(filters=8, kernel_size=(3, 1), padding="same"), (8, 8, 6)),
    "1x5": (dict(filters=8, kernel_size=(1, 5), strides=2), (9, 9, 6)),
    "one channel": (dict(filters=5, kernel_size=3, activation="tanh"), (6, 6, 1)),
    "one filter": (dict(filters=1, kernel_size=3), (6, 6, 9)),
    "512 channels": (dict(filters=8, kernel_size=3, padding="same"), (3, 3, 512)),
    "512 filters": (dict(filters=512, kernel_size=3, use_bias=False), (3, 3, 4)),
    "regularized": (
        dict(
            filters=6,
            kernel_size=3,
            kernel_regularizer="l2",
            bias_regularizer=keras.regularizers.L1(0.1),
            activity_regularizer="l2",
            bias_constraint="non_neg",
        ),
        (6, 6, 4),
    ),
    "frozen": (
        dict(filters=6, kernel_size=3, trainable=False, name="frozen_one"),
        (6, 6, 4),
    ),
}
TFLITE = {"1x1", "3x3 same strided", "3x3 dilated"}


@pytest.mark.parametrize("case", CASES)
def test_conformance(case):
    options, shape = CASES[case]
    layer = L.Conv2D(**options)
    c.check_layer_type(ChannelSVDConv2D, layer, shape, tflite=case in TFLITE)


@pytest.mark.parametrize("case", ["1x1", "3x3", "3x3 same strided", "regularized"])
def test_conformance_in_mixed_precision(case):
    options, shape = CASES[case]
    layer = L.Conv2D(**options, dtype="mixed_bfloat16")
    c.check_layer_type(ChannelSVDConv2D, layer, shape)


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_conformance_of_any_geometry(data):
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    n_in, n_out = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    strides, dilation = data.draw(
        st.sampled_from([(1, 1), (2, 1), ((2, 1), 1), (3, 1), (1, 2), (1, (2, 3))])
    )
    shape = (data.draw(st.integers(13, 16)), data.draw(st.integers(13, 16)), n_in)
    largest = ChannelSVDConv2D.max_ranks((*kernel, n_in, n_out))
    ranks = tuple(data.draw(st.integers(1, limit)) for limit in largest)
    layer = L.Conv2D(
        n_out,
        kernel,
        strides=strides,
        dilation_rate=dilation,
        padding=data.draw(st.sampled_from(["same", "valid"])),
        use_bias=data.draw(st.booleans()),
    )
    seed = data.draw(st.integers(0, 99))
    c.check_layer_type(ChannelSVDConv2D, layer, shape, ranks, seed=seed)


def built(filters=6, kernel=3, channels=4, **options):
    layer = L.Conv2D(filters, kernel, **options)
    layer.build((None, 8, 8, channels))
    return c.randomize(layer)


def test_channels_first():
    """Built, cut, saved and expanded by the right axis (TensorFlow's CPU runs it)."""
    layer = L.Conv2D(6, 3, data_format="channels_first", padding="same", strides=2)
    c.check_layer_type(ChannelSVDConv2D, layer, (4, 9, 10))


@pytest.mark.parametrize("regularizer", ["l2", "l1"])
def test_kernel_regularizer_gives_the_loss_of_the_dense_layer(regularizer):
    dense = built(kernel_regularizer=regularizer, bias_regularizer="l2")
    largest = ChannelSVDConv2D.max_ranks(tuple(dense.kernel.shape))
    full = ChannelSVDConv2D.from_layer(dense, largest)
    for layer in (dense, full):
        layer(np.ones((1, 8, 8, 4), "float32"))
    expected = sorted(map(float, dense.losses))
    np.testing.assert_allclose(sorted(map(float, full.losses)), expected, rtol=1e-4)


@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_gradient_flows_to_every_weight(regularizer):
    dense = built(kernel_regularizer=regularizer)
    low = ChannelSVDConv2D.from_layer(dense, 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(low(c.normal((2, 8, 8, 4)))))
        loss += sum(low.losses)
    gradients = tape.gradient(loss, [w.value for w in low.trainable_weights])
    assert len(gradients) == 3
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)) and float(tf.norm(gradient)) > 0.0


def with_lora():
    layer = built()
    layer.enable_lora(2)
    return layer


def other(cls, **options):
    layer = cls(**options)
    layer.build((None, 8, 8, 4))
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: L.Conv2D(4, 3), "it is not built"),
        (lambda: built(kernel_constraint="max_norm"), "kernel constraint"),
        (lambda: built(groups=2), r"grouped convolution \(2 groups\)"),
        (with_lora, "LoRA is enabled"),
        (lambda: other(L.DepthwiseConv2D, kernel_size=3), "it is no Conv2D"),
        (lambda: other(L.SeparableConv2D, filters=4, kernel_size=3), "it is no Conv2D"),
        (lambda: other(L.Conv2DTranspose, filters=4, kernel_size=3), "it is no Conv2D"),
    ],
)
def test_unsupported_layers_give_a_reason(make, reason):
    with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
        ChannelSVDConv2D.from_layer(make(), 3)


@pytest.mark.parametrize("ranks", [0, -2, 7, (2, 2), (), 1.5, True])
def test_rank_errors(ranks):
    with pytest.raises(RankError, match="ranks must be"):
        ChannelSVDConv2D.from_layer(built(), ranks)


def test_truncation_cannot_raise_a_rank():
    low = ChannelSVDConv2D.from_layer(built(), 3)
    with pytest.raises(RankError, match="can only fall"):
        low.truncate(4)


def test_zero_kernel():
    dense = built()
    dense.kernel.assign(np.zeros((3, 3, 4, 6)))
    low = ChannelSVDConv2D.from_layer(dense, 3)
    np.testing.assert_array_equal(low.kernel(), np.zeros((3, 3, 4, 6)))
    cut = low.truncate(1)
    np.testing.assert_array_equal(cut.kernel(), np.zeros((3, 3, 4, 6)))


def test_wrong_number_of_channels_is_refused():
    low = ChannelSVDConv2D.from_layer(built(), 3)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        low(np.ones((1, 8, 8, 5), "float32"))


def test_of_a_1x1_kernel_is_the_svd_of_a_dense_one():
    dense = built(8, 1, 6)
    low = ChannelSVDConv2D.from_layer(dense, 3)
    values = np.linalg.svd(np.array(dense.kernel)[0, 0], compute_uv=False)
    error = np.linalg.norm(low.kernel() - np.array(dense.kernel))
    assert error == pytest.approx(np.linalg.norm(values[3:]), rel=1e-4)
