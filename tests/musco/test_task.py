"""Any Keras loss and metric: regression, segmentation, several outputs."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress
from tfcompress.cost import model_cost
from tfcompress.distill import ViewSpec, regression_divergence
from tfcompress.errors import TfcompressError
from tfcompress.musco import FineTuning, Task
from tfcompress.ranks import Budget

SHORT = {"batch_size": 64, "calibration_steps": 3, "jit_compile": False, "rounds": 1}


def trained(model, x, y, epochs=6, **options):
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False, **options)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def regression():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(384, 16)).astype("float32")
    y = np.tanh(x[:, :1] - 0.5 * x[:, 1:2])
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(48, activation="relu"),
            layers.Dense(48, activation="relu"),
            layers.Dense(1),
        ]
    )
    return trained(model, x, y, loss="mse"), (x[:256], y[:256]), (x[256:], y[256:])


TASK = Task(
    loss="mse",
    metrics=["mae"],
    monitor="mae",
    mode="min",
    divergence=regression_divergence,
)


@pytest.mark.parametrize("by", ["labels", "distillation"])
def test_regression(regression, by):
    model, train, validation = regression
    result = tfcompress.compress(
        model,
        train,
        validation,
        target=Budget(macs=0.5),
        max_drop=0.1,
        task=TASK,
        by=by,
        epochs=8,
        learning_rate=3e-3,
        **SHORT,
    )
    assert result.target_met
    assert result.monitor == "mae"
    found = np.mean(np.abs(np.array(result.model(validation[0])) - validation[1]))
    assert result.final["mae"] == pytest.approx(found, rel=1e-3)
    assert result.final["mae"] <= result.original["mae"] + 0.1 + 1e-9
    assert "validation mae" in result.summary()
    assert result.original["divergence"] == pytest.approx(0.0, abs=1e-6)


def test_a_metric_is_enough(regression):
    """The loss is the model's own; what is better, Keras says."""
    model, train, validation = regression
    given = [
        {"task": TASK},
        {"metric": "mae"},
        {"metric": keras.metrics.MeanAbsoluteError("far")},
    ]
    wanted, *found = (
        tfcompress.compress(
            *(model, train, validation),
            **(options | SHORT),
            target=Budget(macs=0.5),
            max_drop=0.1,
            epochs=4,
        )
        for options in given
    )
    assert [result.monitor for result in found] == ["mae", "far"]
    for result in found:
        assert result.final[result.monitor] == wanted.final["mae"]
        assert result.history[0].accepted and result.target_met


def test_a_metric_of_ones_own_needs_a_direction(regression):
    def hits(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) < 0.1, axis=-1)

    model, train, validation = regression
    options = {"target": Budget(macs=0.5), "epochs": 1, **SHORT}
    with pytest.raises(TfcompressError, match="direction='max' or 'min'.*'hits'"):
        tfcompress.compress(model, train, validation, metric=hits, **options)
    result = tfcompress.compress(
        model, train, validation, metric=hits, direction="max", max_drop=1.0, **options
    )
    assert 0.0 <= result.final["hits"] <= result.original["hits"] <= 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "no_such"}, "no such metric.*'no_such'"),
        ({"metric": "mae", "direction": "up"}, "'max' or 'min'"),
        ({"direction": "max"}, "goes with a metric"),
        ({"metric": "mae", "task": TASK}, "task, or metric"),
        ({"direction": "min", "task": TASK}, "task, or metric"),
    ],
)
def test_metrics_that_cannot_be(regression, options, words):
    model, train, validation = regression
    with pytest.raises(TfcompressError, match=words):
        tfcompress.compress(
            model, train, validation, target=Budget(macs=0.5), **options
        )


def idle(regression, task, max_drop):
    """The only round of a compression whose fine-tuning changes nothing."""
    model, train, validation = regression
    result = tfcompress.compress(
        model,
        train,
        validation,
        target=Budget(macs=0.1),
        max_drop=max_drop,
        retries=0,
        task=task,
        epochs=1,
        steps_per_epoch=1,
        learning_rate=1e-9,
        **SHORT | {"calibration_steps": 0},
    )
    (only,) = result.history
    # Rolled back, the model is what it was; else it is the smaller one.
    assert (result.cost == model_cost(model)) == (not only.accepted)
    assert result.final == (only.result if only.accepted else result.original)
    return only, result.original


@pytest.mark.parametrize(
    ("monitor", "mode", "sign"), [("mae", "min", 1.0), ("r2_score", "max", -1.0)]
)
def test_a_round_that_falls_too_far_is_rolled_back(regression, monitor, mode, sign):
    """An error that rises would be better as an accuracy, and the reverse."""
    task = dataclasses.replace(
        TASK, metrics=["mae", keras.metrics.R2Score()], monitor=monitor, mode=mode
    )
    found, original = idle(regression, task, 0.0)
    assert not found.accepted
    drop = sign * (found.result[monitor] - original[monitor])
    assert drop > 0.05
    assert found.reason == f"{monitor} is worse by {drop:.4f}, allowed 0.0"
    if mode == "min":
        assert idle(regression, task, 1.01 * drop)[0].accepted


def test_segmentation():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 8, 8, 1)).astype("float32")
    y = np.digitize(x[..., 0], [-0.5, 0.5])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.Conv2D(3, 1),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained(model, x, y, loss=loss, epochs=10)
    metric = keras.metrics.SparseCategoricalAccuracy(name="pixels")
    task = Task(loss=loss, metrics=[metric], monitor="pixels", mode="max")
    result = tfcompress.compress(
        model,
        (x[:128], y[:128]),
        (x[128:], y[128:]),
        target=Budget(macs=0.6),
        max_drop=0.05,
        task=task,
        epochs=6,
        **SHORT,
    )
    assert result.target_met
    labels = np.argmax(result.model(x[128:]), -1)
    assert result.final["pixels"] == pytest.approx(np.mean(labels == y[128:]), abs=1e-4)
    assert result.final["pixels"] >= result.original["pixels"] - 0.05 - 1e-9


def test_several_outputs():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 16)).astype("float32")
    y = {"kind": np.argmax(x[:, :3], -1), "size": x[:, 3:4] + x[:, 4:5]}
    inputs = keras.Input((16,))
    h = layers.Dense(48, activation="relu", name="h1")(inputs)
    h = layers.Dense(48, activation="relu", name="h2")(h)
    heads = {
        "kind": layers.Dense(3, name="kind")(h),
        "size": layers.Dense(1, name="size")(h),
    }
    losses = {
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "size": "mse",
    }
    model = trained(keras.Model(inputs, heads), x, y, loss=losses)
    task = Task(
        loss=losses,
        metrics={"kind": ["accuracy"]},
        monitor="kind_accuracy",
        mode="max",
    )
    given = dict(losses)
    result = tfcompress.compress(
        model,
        (x[:192], {k: v[:192] for k, v in y.items()}),
        (x[192:], {k: v[192:] for k, v in y.items()}),
        target=Budget(params=0.6),
        max_drop=0.1,
        task=task,
        by="labels",
        epochs=5,
        **SHORT,
    )
    assert result.target_met
    found = np.mean(np.argmax(result.model(x[192:])["kind"], -1) == y["kind"][192:])
    assert result.final["kind_accuracy"] == pytest.approx(found, abs=1e-4)
    assert result.final["kind_accuracy"] >= result.original["kind_accuracy"] - 0.1
    assert losses == given


def test_classifiers_of_vectors_need_no_task():
    """Nothing is cropped where there is no image."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 16)).astype("float32")
    y = np.argmax(x[:, :4], -1)
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(48, activation="relu"), layers.Dense(4)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained(model, x, y, loss=loss)
    for by in ("distillation", "labels"):
        result = tfcompress.compress(
            model,
            (x[:192], y[:192]),
            (x[192:], y[192:]),
            target=Budget(macs=0.7),
            max_drop=1.0,
            epochs=2,
            by=by,
            **SHORT,
        )
        assert result.target_met


class Beyond(keras.metrics.Metric):
    """Share of errors above a limit; as users write them, without a config."""

    def __init__(self, limit):
        super().__init__(name="beyond")
        self.limit = limit
        self.count = self.add_weight(name="count", initializer="zeros")
        self.all = self.add_weight(name="all", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        beyond = tf.cast(tf.abs(y_true - y_pred) > self.limit, tf.float32)
        self.count.assign_add(tf.reduce_sum(beyond))
        self.all.assign_add(tf.cast(tf.size(beyond), tf.float32))

    def result(self):
        return self.count / self.all


class Scaled(keras.losses.Loss):
    """A loss whose config does not tell its argument."""

    def __init__(self, scale=1.0):
        super().__init__(name="scaled")
        self.scale = scale

    def call(self, y_true, y_pred):
        return self.scale * tf.reduce_mean(tf.square(y_true - y_pred), -1)


def measured(regression, **options):
    model, _, (x, y) = regression
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    return Task(**options).measure(model, model, data)


@pytest.mark.parametrize("loss", [Scaled(7.0), keras.losses.Huber(0.05)])
def test_losses_are_taken_as_they_are(regression, loss):
    """Keras' own `Huber` leaves its delta out of its config."""
    model, _, (x, y) = regression
    expected = float(loss(y, model(x)))
    assert measured(regression, loss=loss)["loss"] == pytest.approx(expected, rel=1e-4)
    trainer = Task(loss=loss).trainer(model, model, FineTuning(by="labels"), seed=0)
    assert trainer[1]["loss"] is loss


def test_metrics_are_taken_as_they_are_and_keep_their_counts(regression):
    model, _, (x, y) = regression
    metric = Beyond(0.02)
    late = keras.metrics.R2Score()  # makes its variables when it is called
    metric.update_state(np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0]))
    found = measured(regression, loss="mse", metrics=[metric, late])
    assert found["beyond"] == pytest.approx(np.mean(np.abs(y - model(x)) > 0.02))
    assert float(metric.result()) == 0.25
    assert late.variables
    assert not any(np.any(np.array(v)) for v in late.variables)


@pytest.mark.parametrize("by", ["labels", "distillation"])
def test_what_each_way_of_tuning_trains_on(regression, by):
    model, (x, y), _ = regression
    student = keras.Sequential([keras.Input((16,)), layers.Dense(1)])
    tuning = FineTuning(by=by, label_weight=0.5)
    trainer, options = TASK.trainer(student, model, tuning, seed=0)
    trainer.compile(**options)
    found = trainer.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)
    expected = np.mean(np.square(y - student(x)))
    if by == "distillation":
        match = float(regression_divergence(model(x), student(x)))
        expected = match + 0.5 * expected
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{"views": ViewSpec()}, {"temperature": 2.0}])
def test_options_of_classifiers_are_not_passed_over(regression, options):
    with pytest.raises(TfcompressError, match=r"for classifiers.*Received: views="):
        tfcompress.compress(
            *regression, target=Budget(macs=0.5), task=TASK, **options, **SHORT
        )


def test_the_view_of_the_task_is_trained_on(regression):
    model, (x, y), _ = regression
    student = keras.models.clone_model(model)
    student.set_weights(model.get_weights())
    task = Task(
        view=lambda inputs, key: 0.0 * inputs,
        divergence=lambda a, b: tf.reduce_mean(tf.square(a - b)),
    )
    trainer, options = task.trainer(student, model, FineTuning(), seed=0)
    trainer.compile(keras.optimizers.SGD(0.1), jit_compile=False, **options)
    student.layers[-1].bias.assign_add([1.0])
    trainer.fit(x, y, epochs=1, verbose=0)
    # Of inputs that are zero, kernels of the first layer learn nothing.
    for layer, moved in ((student.layers[0], False), (student.layers[-1], True)):
        before = model.layers[student.layers.index(layer)].kernel
        assert np.any(np.array(layer.kernel) != before) == moved


def test_a_figure_that_nobody_measures(regression):
    task = Task(loss="mse", monitor="accuracy", mode="max")
    with pytest.raises(TfcompressError, match=r"'accuracy', is none of.*divergence"):
        tfcompress.compress(*regression, target=Budget(macs=0.5), task=task, **SHORT)


def test_labels_need_a_loss(regression):
    task = Task(monitor="divergence")
    with pytest.raises(TfcompressError, match="needs a task with a loss"):
        tfcompress.compress(
            *regression, target=Budget(macs=0.5), task=task, by="labels", **SHORT
        )


def test_modes_are_two():
    with pytest.raises(TfcompressError, match="Received: mode='least'"):
        Task(mode="least")


def test_without_a_loss_the_divergence_decides(regression):
    """No labels at all: the network is its own reference."""
    model, (x, y), (xv, yv) = regression
    task = Task(monitor="divergence", divergence=regression_divergence)
    result = tfcompress.compress(
        model,
        (x, y),
        (xv, yv),
        target=Budget(macs=0.6),
        max_drop=0.5,
        task=task,
        epochs=2,
        **SHORT,
    )
    assert result.monitor == "divergence"
    assert result.target_met
