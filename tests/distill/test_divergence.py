"""How far outputs of any kind are apart."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tfcompress.distill import output_divergence, regression_divergence
from tfcompress.errors import TfcompressError


def logits(seed, shape=(16, 5)):
    return 2.0 * np.random.default_rng(seed).normal(size=shape).astype("float32")


def kl(a, b):
    p = softmax(a, axis=-1)
    return np.mean(np.sum(p * (log_softmax(a, -1) - log_softmax(b, -1)), axis=-1))


def relative(a, b):
    return np.mean((a - b) ** 2) / np.var(a)


def test_logits_count_by_their_kl():
    a, b = logits(0), logits(1)
    assert float(output_divergence(a, b)) == pytest.approx(kl(a, b), rel=1e-5)


def test_probabilities_count_by_the_same():
    a, b = logits(0), logits(1)
    found = output_divergence(
        softmax(a, -1).astype("float32"), softmax(b, -1).astype("float32")
    )
    assert float(found) == pytest.approx(kl(a, b), rel=1e-4)


def test_dense_maps_of_classes():
    a, b = logits(0, (2, 6, 6, 3)), logits(1, (2, 6, 6, 3))
    assert float(output_divergence(a, b)) == pytest.approx(kl(a, b), rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 1), (16,), (4, 6, 6, 1)])
def test_numbers_count_by_their_relative_error(shape):
    a, b = logits(0, shape), logits(1, shape)
    assert float(output_divergence(a, b)) == pytest.approx(relative(a, b), rel=1e-5)
    # Units do not matter.
    assert float(output_divergence(100 * a, 100 * b)) == pytest.approx(
        relative(a, b), rel=1e-5
    )


def test_regression_takes_every_output_as_numbers():
    a, b = logits(0), logits(1)
    found = float(regression_divergence(a, b))
    assert found == pytest.approx(relative(a, b), rel=1e-5)


def test_outputs_that_do_not_vary_count_relative_to_their_size():
    a = np.full((8, 1), 3.0, "float32")
    assert float(output_divergence(a, a + 0.3)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_outputs_add_up(structure):
    a, b = [logits(0), logits(1, (16, 1))], [logits(2), logits(3, (16, 1))]
    expected = kl(a[0], b[0]) + relative(a[1], b[1])
    if structure == "dict":
        a, b = (dict(zip("xy", v, strict=True)) for v in (a, b))
    assert float(output_divergence(a, b)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", [output_divergence, regression_divergence])
def test_equal_outputs_are_no_distance_apart(divergence):
    a = [logits(0), logits(1, (16, 1))]
    assert float(divergence(a, a)) == pytest.approx(0.0, abs=1e-7)


def test_positive_logits_are_not_taken_for_probabilities():
    a, b = np.abs(logits(0)), np.abs(logits(1))
    assert float(output_divergence(a, b)) == pytest.approx(kl(a, b), rel=1e-5)


def test_it_is_the_reference_that_is_to_be_met():
    """KL divergence and relative error have a direction, and never count below zero."""
    a, b = logits(0), 3.0 * logits(1)
    there, back = float(output_divergence(a, b)), float(output_divergence(b, a))
    assert there != pytest.approx(back, rel=0.05)
    assert min(there, back) > 0
    wide = float(regression_divergence(10.0 * a, a))
    assert wide == pytest.approx(relative(10.0 * a, a), rel=1e-5)
    assert wide < float(regression_divergence(a, 10.0 * a))


@pytest.mark.parametrize("kind", ["logits", "one-hot", "numbers"])
def test_gradients_are_finite_and_lead_down(kind):
    """Where one of two formulas is chosen, the other must not spoil the gradient."""
    a = {
        "logits": logits(0),
        "one-hot": np.eye(5, dtype="float32")[np.arange(16) % 5],
        "numbers": np.full((16, 1), 3.0, "float32"),
    }[kind]
    start = {"logits": logits(1), "one-hot": softmax(logits(1), -1), "numbers": a + 1}
    b = tf.Variable(start[kind].astype("float32"))
    with tf.GradientTape() as tape:
        far = output_divergence(a, b)
    gradient = tape.gradient(far, b)
    assert np.isfinite(gradient).all()
    b.assign_sub(1e-3 * gradient / tf.norm(gradient))
    assert float(output_divergence(a, b)) < float(far)


def test_half_precision_is_computed_in_float32():
    a, b = logits(0), logits(1)
    half = output_divergence(*(tf.cast(x, tf.bfloat16) for x in (a, b)))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(kl(a, b), rel=0.05)


def test_probabilities_of_half_precision_are_still_probabilities():
    """Their sums miss 1 by the rounding of three digits; as logits they are close."""
    a, b = logits(0), logits(1)
    half = (tf.cast(softmax(x, -1), tf.bfloat16) for x in (a, b))
    assert float(output_divergence(*half)) == pytest.approx(kl(a, b), rel=0.05)


def test_other_numbers_of_outputs_are_an_error():
    with pytest.raises(TfcompressError, match="Received: 1 and 2 outputs"):
        output_divergence([logits(0)], [logits(0), logits(1)])


@pytest.mark.parametrize("divergence", [output_divergence, regression_divergence])
@pytest.mark.parametrize("shapes", [((16, 5), (16, 1)), ((16, 1), (16,))])
def test_shapes_that_would_broadcast_are_an_error(divergence, shapes):
    a, b = (logits(0, shape) for shape in shapes)
    with pytest.raises(TfcompressError, match=r"Received: shapes \(16, .*and \(16,"):
        divergence(a, b)
