"""FactorizedSeparableConv1D, 2D against the separable convolutions they replace."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.errors import RankError
from tfcompress.layers import (
    FactorizedSeparableConv1D,
    FactorizedSeparableConv2D,
    kernel_of,
)
from tfcompress.linalg import Moments

L = keras.layers

REGULARIZED = dict(
    depthwise_regularizer="l1",
    depthwise_constraint="non_neg",
    pointwise_regularizer="l2",
    bias_regularizer="l2",
    activity_regularizer="l2",
    bias_constraint="non_neg",
)
CASES = {
    "3x3": (L.SeparableConv2D, dict(filters=12, kernel_size=3), (7, 8, 10)),
    "same strided": (
        L.SeparableConv2D,
        dict(filters=12, kernel_size=3, strides=2, padding="same", use_bias=False),
        (9, 8, 6),
    ),
    "multiplied": (
        L.SeparableConv2D,
        dict(filters=9, kernel_size=(2, 5), depth_multiplier=3, activation="relu"),
        (7, 8, 4),
    ),
    "dilated": (
        L.SeparableConv2D,
        dict(filters=8, kernel_size=3, dilation_rate=2, padding="same"),
        (9, 9, 5),
    ),
    "channels first": (
        L.SeparableConv2D,
        dict(filters=8, kernel_size=3, data_format="channels_first"),
        (5, 8, 9),
    ),
    "regularized": (
        L.SeparableConv2D,
        dict(filters=6, kernel_size=3, **REGULARIZED),
        (6, 6, 5),
    ),
    "frozen": (
        L.SeparableConv2D,
        dict(filters=6, kernel_size=3, trainable=False, name="frozen_one"),
        (6, 6, 5),
    ),
    "mixed": (
        L.SeparableConv2D,
        dict(filters=6, kernel_size=3, dtype="mixed_bfloat16"),
        (6, 6, 5),
    ),
    "1D": (L.SeparableConv1D, dict(filters=9, kernel_size=3), (8, 6)),
    "1D same strided": (
        L.SeparableConv1D,
        dict(filters=9, kernel_size=4, strides=2, padding="same", depth_multiplier=2),
        (9, 6),
    ),
    "1D channels first": (
        L.SeparableConv1D,
        dict(filters=9, kernel_size=3, data_format="channels_first"),
        (6, 9),
    ),
}
TFLITE = {"same strided", "multiplied", "1D same strided"}
TYPES = {
    L.SeparableConv1D: FactorizedSeparableConv1D,
    L.SeparableConv2D: FactorizedSeparableConv2D,
}


@pytest.mark.parametrize("case", CASES)
def test_conformance(case):
    stock, options, shape = CASES[case]
    c.check_layer_type(TYPES[stock], stock(**options), shape, tflite=case in TFLITE)


def built(filters=6, **options):
    layer = L.SeparableConv2D(filters, 3, **options)
    layer.build((None, 8, 8, 4))
    return c.randomize(layer)


@pytest.mark.parametrize("case", ["multiplied", "same strided", "channels first", "1D"])
def test_input_rows_are_what_the_depthwise_part_gives(case):
    stock, options, shape = CASES[case]
    layer = stock(**options | {"activation": None, "use_bias": False})
    layer.build((None, *shape))
    c.randomize(layer)
    x = c.normal((3, *shape))
    cls = TYPES[stock]
    rows = np.array(cls.input_rows(layer, x, whole=True))
    found = rows @ cls.as_matrix(kernel_of(layer))
    outputs = np.array(layer(x))
    if options.get("data_format") == "channels_first":
        outputs = np.moveaxis(outputs, 1, -1)
    np.testing.assert_allclose(found, outputs.reshape(found.shape), atol=1e-4)
    low = cls.from_layer(layer, 2)
    np.testing.assert_allclose(cls.input_rows(low, x, whole=True), rows, atol=1e-6)


def test_statistics_lower_the_error_of_the_outputs():
    layer = built(filters=12)
    x = (1.0 + c.normal((16, 8, 8, 4))) * np.array([3.0, 1.0, 0.3, 0.05], "float32")
    rows = FactorizedSeparableConv2D.input_rows(layer, x, whole=True)
    rows = np.array(rows, np.float64)
    moments = Moments(rows.T @ rows / len(rows), rows.mean(0), len(rows))
    right = np.array(layer(x))
    plain, aware = (
        FactorizedSeparableConv2D.from_layer(layer, 1, m) for m in (None, moments)
    )
    errors = [np.mean(np.square(new(x) - right)) for new in (plain, aware)]
    assert errors[1] < 0.8 * errors[0]
    means = np.mean(aware(x) - right, axis=(0, 1, 2))
    np.testing.assert_allclose(means, np.zeros(12), atol=1e-3)


def test_losses_are_those_of_the_stock_layer():
    layer = built(**REGULARIZED)
    full = FactorizedSeparableConv2D.from_layer(layer, 4)
    x = c.normal((2, 8, 8, 4))
    for one in (layer, full):
        one(x)
    expected = sorted(map(float, layer.losses))
    np.testing.assert_allclose(sorted(map(float, full.losses)), expected, rtol=1e-4)


def test_gradient_flows_to_every_weight():
    low = FactorizedSeparableConv2D.from_layer(built(), 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(low(c.normal((2, 8, 8, 4)))))
    gradients = tape.gradient(loss, [w.value for w in low.trainable_weights])
    assert len(gradients) == 4
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)) and float(tf.norm(gradient)) > 0.0


def test_wrong_number_of_channels_is_refused():
    low = FactorizedSeparableConv2D.from_layer(built(depth_multiplier=2), 2)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        low(np.ones((1, 8, 8, 8), "float32"))


def test_errors():
    with pytest.raises(ValueError, match="it is not built"):
        FactorizedSeparableConv2D.from_layer(L.SeparableConv2D(4, 3), 2)
    constrained = built(pointwise_constraint="max_norm")
    with pytest.raises(ValueError, match="kernel constraint"):
        FactorizedSeparableConv2D.from_layer(constrained, 2)
    with pytest.raises(RankError, match=r"at most \(4,\)"):
        FactorizedSeparableConv2D.from_layer(built(), 5)
