"""Accuracy, agreement and divergence of a classifier."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfcompress.distill import classify, evaluate


@pytest.fixture(scope="module")
def models(net):
    return net(0), net(50, activation="softmax")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(50, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 10, 50).astype("int32")


def batches(data, size=16):
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def test_figures_against_numpy(models, data):
    model, teacher = models
    images, labels = data
    figures = evaluate(model, batches(data), teacher=teacher)
    logits = np.asarray(model(images, training=False), np.float64)
    expected = np.asarray(teacher(images, training=False), np.float64)
    log_q = scipy.special.log_softmax(logits, -1)
    kl = np.sum(expected * (np.log(expected) - log_q), -1).mean()
    classes = logits.argmax(-1)
    assert figures["accuracy"] == pytest.approx((classes == labels).mean())
    assert figures["agreement"] == pytest.approx(
        (classes == expected.argmax(-1)).mean()
    )
    assert figures["kl"] == pytest.approx(kl, rel=1e-4)
    # The last batch of two counts by its samples, not as a batch.
    assert figures["samples"] == 50


def test_a_model_agrees_with_itself(models, data):
    for model in models:
        figures = evaluate(model, batches(data), teacher=model)
        assert figures["agreement"] == 1.0
        assert figures["kl"] == pytest.approx(0.0, abs=1e-6)


def test_without_a_teacher_only_accuracy(models, data):
    assert set(evaluate(models[0], batches(data))) == {"accuracy", "samples"}


def test_right_labels_give_one(models, data):
    model = models[0]
    labels = np.argmax(model(data[0], training=False), -1)
    assert evaluate(model, [(data[0], labels)])["accuracy"] == 1.0
    # Labels as a column are the same labels.
    assert evaluate(model, [(data[0], labels[:, None])])["accuracy"] == 1.0
    assert evaluate(model, [(data[0], (labels + 1) % 10)])["accuracy"] == 0.0


def test_evaluation_changes_nothing(models, data):
    model = models[0]
    before = [w.copy() for w in model.get_weights()]
    evaluate(model, batches(data), teacher=model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_other_pixel_types_are_cast(models, data):
    model = models[0]
    pixels = (data[0] * 3).astype("uint8")
    expected = evaluate(model, [(pixels.astype("float32"), data[1])], teacher=models[1])
    for images in (pixels, tf.constant(pixels), pixels.astype("float64")):
        assert evaluate(model, [(images, data[1])], teacher=models[1]) == expected


def test_classify_gives_logits_for_any_batch_size(models, data):
    for model, scale in zip(models, (1.0, 0.0), strict=True):
        logits = classify(model)
        for count in (1, 7, 50):
            outputs = np.asarray(model(data[0][:count], training=False))
            expected = outputs if scale else np.log(outputs)
            np.testing.assert_allclose(logits(data[0][:count]), expected, atol=1e-5)


def test_no_batches_is_an_error(models):
    with pytest.raises(ValueError, match="no batches"):
        evaluate(models[0], [])
