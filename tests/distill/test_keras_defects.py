"""What `keras.distillation` gets wrong (measured in Keras 3.15), and we do not.

Where it is quick to show, the test shows the defect too: when Keras mends it, the test
fails, and the comparison can go.
"""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfcompress.distill import Distiller, FeatureMatch, ViewSpec, kl_divergence

PLAIN = ViewSpec(mode="consistent", crop="none")


def keras_loss(teacher, student):
    """As a user gets it who says nothing."""
    loss = keras.distillation.LogitsDistillation(temperature=1.0)
    return float(loss.compute_loss(tf.constant(teacher), tf.constant(student)))


def logits_of(seed, low=-4.0, high=4.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, size=(8, 10)).astype("float32")


def true_kl(teacher, student):
    t, s = (
        scipy.special.log_softmax(x.astype(np.float64), -1) for x in (teacher, student)
    )
    return np.sum(np.exp(t) * (t - s), -1)


def test_kl_of_shifted_logits_is_zero():
    teacher = logits_of(0)
    ours = kl_divergence(teacher, teacher + 5.0)
    np.testing.assert_allclose(ours, 0.0, atol=1e-6)
    assert keras_loss(teacher, teacher + 5.0) < -0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_right_and_never_negative(temperature):
    for seed in range(20):
        teacher, student = logits_of(seed), logits_of(100 + seed)
        ours = kl_divergence(teacher, student, temperature).numpy()
        expected = temperature**2 * true_kl(
            teacher / temperature, student / temperature
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
        assert (ours >= 0).all()


def test_kl_of_all_negative_logits_is_right():
    teacher, student = logits_of(1, -6.0, -1.0), logits_of(2, -6.0, -1.0)
    ours = kl_divergence(teacher, student)
    np.testing.assert_allclose(ours, true_kl(teacher, student), rtol=1e-4)
    assert keras_loss(teacher, student) == 0.0


def test_evaluation_changes_no_batch_norm_even_with_features(net, digits):
    student, teacher = net(1), net(5)
    names = [model.layers[0].name for model in (teacher, student)]
    distiller = Distiller(
        student,
        teacher,
        features=[FeatureMatch(teacher=names[0], student=names[1])],
    )
    distiller.compile("adam", jit_compile=False)
    before = [np.array(v) for v in student.variables]
    distiller.evaluate(*digits["validation"], verbose=0)
    for old, new in zip(before, student.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_regularizers_are_in_the_loss(net, digits):
    images = digits["train"][0][:16]
    student = net(1, kernel_regularizer=keras.regularizers.L2(0.1))
    penalty = float(sum(student.losses))
    assert penalty > 0.1
    distiller = Distiller(student, net(5), views=PLAIN)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    figures = distiller.train_on_batch(images, return_dict=True)
    assert figures["loss"] == pytest.approx(figures["kl"] + penalty, rel=1e-5)


def test_resolutions_and_half_precision_may_differ(net, digits):
    images = digits["train"][0][:16]
    small = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    distiller = Distiller(small, net(5, dtype="mixed_bfloat16"))
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    history = distiller.fit(images, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_no_loss_need_be_given_and_the_student_alone_is_saved(net, digits, tmp_path):
    student, teacher = net(1), net(5, width=2000)
    distiller = Distiller(student, teacher)
    distiller.compile("adam", jit_compile=False)
    distiller.fit(digits["train"][0][:32], epochs=1, verbose=0)
    distiller.save_weights(tmp_path / "d.weights.h5")
    # With the optimizer's state, and far from what the teacher alone would take.
    size = (tmp_path / "d.weights.h5").stat().st_size
    assert 3 * 4 * student.count_params() < size < teacher.count_params()


# "The same gradient under two replicas" is in test_distributed.py.
