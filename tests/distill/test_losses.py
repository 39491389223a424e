"""Kullback-Leibler divergence of tempered distributions, and kinds of outputs."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

from tfcompress.distill import as_logits, kl_divergence, output_kind
from tfcompress.surgery import factorize

floats = st.floats(-50.0, 50.0, width=32)
logits = hnp.arrays(np.float32, (3, 5), elements=floats)
temperatures = st.floats(0.25, 20.0)


def reference(teacher, student, temperature=1.0):
    t, s = (
        scipy.special.log_softmax(np.asarray(x, np.float64) / temperature, axis=-1)
        for x in (teacher, student)
    )
    return temperature**2 * np.sum(np.exp(t) * (t - s), axis=-1)


@given(logits, logits, temperatures)
def test_against_numpy(teacher, student, temperature):
    found = kl_divergence(teacher, student, temperature).numpy()
    expected = reference(teacher, student, temperature)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * temperature**2)


@given(logits, st.floats(-30.0, 30.0), temperatures)
def test_zero_for_shifted_logits(teacher, shift, temperature):
    found = kl_divergence(teacher, teacher + np.float32(shift), temperature)
    np.testing.assert_allclose(found, 0.0, atol=2e-5 * max(temperature, 1.0) ** 2)


@given(logits, logits, temperatures)
def test_never_negative(teacher, student, temperature):
    assert (kl_divergence(teacher, student, temperature).numpy() >= 0.0).all()


def test_all_negative_logits():
    # A KL of the raw numbers, clipped to [0, 1] as probabilities are, says 0 here.
    teacher = np.array([[-9.0, -3.0, -6.0]], np.float32)
    student = np.array([[-1.0, -4.0, -5.0]], np.float32)
    found = kl_divergence(teacher, student).numpy()
    np.testing.assert_allclose(found, reference(teacher, student), rtol=1e-5)
    assert found[0] > 2.0


def test_huge_logits_stay_finite():
    teacher = tf.constant([[1e4, -1e4, 0.0]])
    student = tf.constant([[-1e4, 1e4, 0.0]])
    np.testing.assert_allclose(kl_divergence(teacher, student), 2e4, rtol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 20.0))
def test_gradient_is_t_times_the_difference_of_probabilities(seed, temperature):
    rng = np.random.default_rng(seed)
    teacher, student = rng.normal(size=(2, 4, 6))
    variable = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(kl_divergence(teacher, variable, temperature))
    p, q = (scipy.special.softmax(x / temperature, -1) for x in (teacher, student))
    expected = temperature * (q - p)
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, atol=1e-4)


def test_gradients_keep_their_scale_over_temperatures():
    # Hinton et al. 2015, section 2.1: at high T, (s - t) / N for centred logits.
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 4, 6))
    teacher -= teacher.mean(-1, keepdims=True)
    student -= student.mean(-1, keepdims=True)
    variable = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(kl_divergence(teacher, variable, 50.0))
    gradient = tape.gradient(loss, variable)
    np.testing.assert_allclose(gradient, (student - teacher) / 6, atol=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_computes_in_float32(dtype):
    rng = np.random.default_rng(0)
    teacher, student = (
        tf.cast(rng.normal(scale=5, size=(8, 10)), dtype) for _ in range(2)
    )
    found = kl_divergence(teacher, student, 2.0)
    assert found.dtype == tf.float32
    expected = reference(*(tf.cast(x, tf.float64) for x in (teacher, student)), 2.0)
    # Far below the 0.4 % of a bfloat16: only the inputs were rounded.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(logits, logits)
def test_probabilities_equal_logits(teacher, student):
    # Beyond 1e-12 a float32 softmax holds nothing to give back.
    teacher, student = teacher / 4, student / 4
    from_probabilities = kl_divergence(
        *(
            as_logits(tf.nn.softmax(tf.constant(x)), "probabilities")
            for x in (teacher, student)
        )
    )
    np.testing.assert_allclose(
        from_probabilities, kl_divergence(teacher, student), rtol=1e-3, atol=1e-4
    )


def test_as_logits():
    half = tf.constant([[0.5, 0.25, 0.0]], tf.bfloat16)
    found = as_logits(half, "probabilities")
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found[0, :2], np.log([0.5, 0.25]), rtol=1e-6)
    assert np.isfinite(found).all()
    plain = as_logits(half, "logits")
    assert plain.dtype == tf.float32
    np.testing.assert_array_equal(plain, [[0.5, 0.25, 0.0]])


def head(*last):
    return keras.Sequential([keras.Input((12,)), *last])


def test_output_kind():
    assert output_kind(head(layers.Dense(10))) == "logits"
    assert output_kind(head(layers.Dense(10, activation="relu"))) == "logits"
    assert output_kind(head(layers.Dense(10, activation="softmax"))) == "probabilities"
    assert output_kind(head(layers.Dense(10), layers.Softmax())) == "probabilities"
    last = layers.Activation("softmax", dtype="float32")
    assert output_kind(head(layers.Dense(10), last)) == "probabilities"
    # Softmax within, logits at the end.
    inner = layers.Dense(10, activation="softmax")
    assert output_kind(head(inner, layers.Dense(10))) == "logits"


@pytest.mark.parametrize("activation", ["softmax", None])
def test_output_kind_of_nested_and_functional_models(activation):
    kind = "logits" if activation is None else "probabilities"
    nested = head(layers.Dense(8), head_of(8, activation))
    assert output_kind(nested) == kind
    inputs = keras.Input((12,))
    outputs = nested(inputs)
    assert output_kind(keras.Model(inputs, outputs)) == kind


def head_of(size, activation):
    last = layers.Dense(10, activation=activation, name="last")
    return keras.Sequential([keras.Input((size,)), last], name="head")


@pytest.mark.parametrize("activation", ["softmax", None])
def test_output_kind_survives_factorization(activation):
    model = head(layers.Dense(16), head_of(16, activation))
    new = factorize(model, {"head/last": ("FactorizedDense", (3,))})
    assert output_kind(new) == output_kind(model)
