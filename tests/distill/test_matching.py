"""Training any network towards a teacher's outputs, its labels, or both."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfcompress.distill import Matching, fit, output_divergence, regression_divergence
from tfcompress.distill.distiller import DistillationError


def regressor(seed, width):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, activation="tanh"),
            layers.Dense(1),
        ]
    )


def segmenter(seed, width):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.Conv2D(3, 1),
        ]
    )


def two_headed(seed, width):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(width, activation="tanh")(inputs)
    heads = {"kind": layers.Dense(4, name="kind")(x)}
    heads["size"] = layers.Dense(1, name="size")(x)
    return keras.Model(inputs, heads)


def inputs_of(model, count=256):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def train(trainer, data, steps=60, **options):
    return fit(
        trainer,
        data,
        None,
        epochs=1,
        steps_per_epoch=steps,
        learning_rate=1e-2,
        jit_compile=False,
        **options,
    )


@pytest.mark.parametrize(
    ("make", "divergence"),
    [
        (regressor, regression_divergence),
        (segmenter, output_divergence),
        (two_headed, output_divergence),
    ],
)
def test_matching_brings_any_network_near_its_teacher(make, divergence):
    teacher, student = make(0, 24), make(1, 12)
    x = inputs_of(teacher)
    before = [np.array(w) for w in teacher.weights]
    data = tf.data.Dataset.from_tensor_slices((x,)).batch(64)

    def distance():
        return float(divergence(teacher(x), student(x)))

    far = distance()
    train(Matching(student, teacher, divergence=divergence), data)
    assert distance() < 0.4 * far
    for old, now in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(old, now)


def test_labels_train_alone_or_with_the_teacher():
    student, teacher = two_headed(1, 12), two_headed(0, 24)
    x = inputs_of(student)
    y = {"kind": np.argmax(x[:, :4], -1), "size": x[:, :1] * 2.0}
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    losses = {
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "size": "mse",
    }
    options = {"compile_options": {"loss": losses, "metrics": {"size": ["mae"]}}}
    trainer = Matching(student, label_weight=1.0)
    history = train(trainer, data, steps=100, **options)
    assert {"loss", "size_mae"} <= set(history)
    assert "divergence" not in history
    figures = trainer.evaluate(data, verbose=0, return_dict=True)
    assert figures["size_mae"] < 0.7
    both = Matching(two_headed(2, 12), teacher, label_weight=0.5)
    figures = train(both, data, steps=5, **options)
    assert {"loss", "divergence", "size_mae"} <= set(figures)


def test_evaluate_measures_the_whole_loss():
    student, teacher = regressor(1, 8), regressor(0, 16)
    x = inputs_of(student, 50)
    y = x[:, :1]
    trainer = Matching(
        student,
        teacher,
        match_weight=0.25,
        label_weight=0.5,
        divergence=lambda a, b: tf.reduce_mean(tf.square(a - b)),
    )
    trainer.compile(loss="mse")
    # Batches of 20, 20 and 10 count by their samples.
    found = trainer.evaluate(x, y, batch_size=20, verbose=0, return_dict=True)
    match = np.mean(np.square(teacher(x) - student(x)))
    labels = np.mean(np.square(y - student(x)))
    assert found["divergence"] == pytest.approx(match, rel=1e-4)
    assert found["loss"] == pytest.approx(0.25 * match + 0.5 * labels, rel=1e-4)


def test_one_seed_gives_identical_weights():
    def run(seed):
        student, teacher = regressor(1, 8), regressor(0, 16)
        x = inputs_of(student)
        data = tf.data.Dataset.from_tensor_slices((x,)).batch(64)

        def view(inputs, key):
            return inputs + tf.random.stateless_normal(tf.shape(inputs), key)

        train(Matching(student, teacher, view=view, seed=seed), data, steps=10)
        return [np.array(w) for w in student.weights]

    first, second, other = run(0), run(0), run(1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_sample_weights_count_in_the_loss_of_the_labels():
    student, teacher = regressor(1, 8), regressor(0, 16)
    x = inputs_of(student, 40)
    y, weight = x[:, :1], np.random.default_rng(1).uniform(size=40).astype("float32")
    error = np.square(y - student(x))[:, 0]
    trainer = Matching(student, teacher, label_weight=2.0)
    trainer.compile(loss="mse", weighted_metrics=["mse"])
    found = trainer.evaluate(
        x, y, sample_weight=weight, batch_size=40, verbose=0, return_dict=True
    )
    # What the teacher says is matched on every sample.
    match = float(output_divergence(teacher(x), student(x)))
    assert found["divergence"] == pytest.approx(match, rel=1e-4)
    assert found["loss"] == pytest.approx(match + 2 * np.mean(weight * error), rel=1e-4)
    assert found["mse"] == pytest.approx(np.sum(weight * error) / weight.sum())


def test_samples_without_weight_teach_nothing():
    def run(y):
        student = regressor(1, 8)
        weight = np.repeat([1.0, 0.0], 32).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(64)
        train(Matching(student, label_weight=1.0), data, 3, compile_options=options)
        return student.get_weights()

    options = {"loss": "mse"}
    x = inputs_of(regressor(1, 8), 64)
    right = x[:, :1]
    wrong = np.where(np.arange(64)[:, None] < 32, right, 1e3).astype("float32")
    for a, b in zip(run(right), run(wrong), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("by", ["teacher", "labels", "both"])
def test_penalties_of_the_student_count_once(by):
    keras.utils.set_random_seed(0)
    teacher = regressor(0, 16)
    penalty = keras.regularizers.L2(0.1)
    student = keras.Sequential(
        [keras.Input((6,)), layers.Dense(1, kernel_regularizer=penalty)]
    )
    x = inputs_of(student, 32)
    trainer = Matching(
        student,
        None if by == "labels" else teacher,
        label_weight=0.0 if by == "teacher" else 0.5,
    )
    trainer.compile(loss="mse")
    found = trainer.evaluate(x, x[:, :1], verbose=0, return_dict=True)
    expected = 0.1 * np.sum(np.square(student.layers[0].kernel))
    if by != "labels":
        expected += float(output_divergence(teacher(x), student(x)))
    if by != "teacher":
        expected += 0.5 * np.mean(np.square(x[:, :1] - student(x)))
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


def test_both_networks_see_the_same_view():
    student = regressor(1, 8)
    x = inputs_of(student, 64)
    # Were the views different, equal networks would be apart.
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    trainer = Matching(
        student,
        twin,
        view=lambda v, key: v + tf.random.stateless_normal(tf.shape(v), key),
    )
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    seen = trainer.fit(x, verbose=0, batch_size=32).history["divergence"]
    assert seen == [pytest.approx(0.0, abs=1e-7)]


def test_labels_that_are_missing():
    trainer = Matching(regressor(0, 4), label_weight=1.0)
    trainer.compile(loss="mse", jit_compile=False)
    with pytest.raises(DistillationError, match=r"label_weight=1.0 needs labels"):
        trainer.fit(inputs_of(trainer.student), verbose=0)


def test_the_teacher_is_not_tracked():
    student, teacher = regressor(1, 8), regressor(0, 16)
    trainer = Matching(student, teacher)
    assert not {id(w) for w in teacher.weights} & {id(w) for w in trainer.weights}
