"""Training with a given number of steps, by labels and by distillation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.distill import (
    Distiller,
    Supervised,
    ViewSpec,
    epochs_and_steps,
    evaluate,
    fit,
    make_views,
)

MILD = ViewSpec(mode="consistent", crop="mild")
PLAIN = ViewSpec(mode="consistent", crop="none")


def batches(data, size=64):
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def test_epochs_and_steps():
    assert epochs_and_steps(steps=None, epochs=7, steps_per_epoch=9) == (7, 9)
    assert epochs_and_steps(steps=90, epochs=None, steps_per_epoch=9) == (10, 9)
    assert epochs_and_steps(steps=5, epochs=None, steps_per_epoch=9) == (1, 5)
    assert epochs_and_steps(steps=20, epochs=None, steps_per_epoch=9) == (3, 7)
    assert epochs_and_steps(steps=1, epochs=None, steps_per_epoch=9) == (1, 1)
    # With both, the longer.
    assert epochs_and_steps(steps=90, epochs=7, steps_per_epoch=9) == (10, 9)
    assert epochs_and_steps(steps=90, epochs=11, steps_per_epoch=9) == (11, 9)


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_steps_are_about_as_many_as_asked(steps, steps_per_epoch):
    epochs, per_epoch = epochs_and_steps(
        steps=steps, epochs=None, steps_per_epoch=steps_per_epoch
    )
    assert 1 <= per_epoch <= steps_per_epoch
    # Rounding of one epoch's length, once for each.
    assert abs(epochs * per_epoch - steps) <= epochs / 2
    assert (epochs - 1) * steps_per_epoch < steps


@pytest.mark.parametrize(
    "length",
    [
        {"steps": None, "epochs": None},
        {"steps": 0, "epochs": 5},
        {"steps": 0, "epochs": None},
        {"steps": None, "epochs": 0},
        {"steps": -3, "epochs": None},
    ],
)
def test_length_must_be_given(length):
    with pytest.raises(ValueError, match="Give steps, epochs or both, at least 1"):
        epochs_and_steps(**length, steps_per_epoch=10)


@pytest.mark.parametrize("steps_per_epoch", [1, 16, 20, 37])
def test_takes_exactly_the_steps_asked_for(net, digits, steps_per_epoch):
    data = tuple(part[:32] for part in digits["train"])
    trainer = Supervised(net(0), views=PLAIN)
    fit(
        trainer,
        batches(data, 8),
        None,
        epochs=2,
        steps_per_epoch=steps_per_epoch,
        jit_compile=False,
    )
    # Otherwise the schedule would end before the training does.
    assert int(trainer.optimizer.iterations) == 2 * steps_per_epoch
    assert float(trainer.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-8)


@pytest.fixture(scope="module")
def supervised(net, digits):
    model = net(0)
    calls = []
    history = fit(
        Supervised(model, views=MILD),
        batches(digits["train"]),
        batches(digits["validation"]),
        epochs=6,
        steps_per_epoch=18,
        learning_rate=2e-2,
        jit_compile=False,
        progress=lambda *arguments: calls.append(arguments),
    )
    return model, history, calls


def test_supervised_learns_digits(supervised, digits):
    model, history, _ = supervised
    accuracy = evaluate(model, batches(digits["validation"]))["accuracy"]
    assert accuracy > 0.7
    assert history["val_accuracy"][-1] == pytest.approx(accuracy, abs=1e-6)
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]


def test_history_has_one_value_for_each_epoch(supervised):
    _, history, _ = supervised
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 6 for values in history.values())
    assert all(type(v) is float for values in history.values() for v in values)


def test_progress_is_told_each_epoch(supervised):
    _, history, calls = supervised
    shares = [done for done, _, _ in calls]
    assert shares == sorted(shares)
    # Within an epoch it may be told as well, as the clock will have it.
    calls = [call for call in calls if call[0] == int(call[0])]
    assert [(epoch, epochs) for epoch, epochs, _ in calls] == [
        (i, 6) for i in range(1, 7)
    ]
    for index, (_, _, figures) in enumerate(calls):
        assert figures["loss"] == history["loss"][index]
        assert figures["val_accuracy"] == history["val_accuracy"][index]


def test_supervised_metrics_stand_once(net):
    trainer = Supervised(net(0), views=MILD)
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    trainer.compile("sgd", metrics=[metric])
    names = [m.name for m in trainer.metrics]
    assert names.count("loss") == 1
    assert len(names) == len(set(names)) == 2


def test_long_trainings_are_validated_twenty_times(net, digits):
    data = tuple(part[:16] for part in digits["train"])
    trainer = Supervised(net(0), views=PLAIN)
    history = fit(
        trainer,
        batches(data, 16),
        batches(data, 16),
        epochs=60,
        steps_per_epoch=1,
        jit_compile=False,
    )
    assert len(history["loss"]) == 60
    assert len(history["val_loss"]) == 20


def first_loss(model, data, views, seed=0):
    trainer = Supervised(model, views=views, seed=seed)
    trainer.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return trainer.train_on_batch(*data, return_dict=True)["loss"]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_supervised_loss_is_the_cross_entropy_of_mixed_labels(net, digits, activation):
    images, labels = (part[:12] for part in digits["train"])
    model = net(3, activation=activation)
    key = tf.constant([5, 0])
    views = make_views(tf.constant(images), key, ViewSpec())
    outputs = model(views.student, training=True)
    if activation is None:
        outputs = tf.nn.softmax(outputs)
    mix = float(views.mix)
    own = np.eye(10)[labels]
    target = mix * own + (1 - mix) * np.roll(own, 1, axis=0)
    expected = -np.sum(target * np.log(outputs), -1).mean()
    found = first_loss(net(3, activation=activation), (images, labels), ViewSpec(), 5)
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0.01 < mix < 0.99


def test_supervised_loss_holds_regularizers(net, digits):
    data = tuple(part[:12] for part in digits["train"])
    plain = first_loss(net(3), data, PLAIN)
    model = net(3, kernel_regularizer=keras.regularizers.L2(0.1))
    kernels = [w for w in model.trainable_weights if w.name == "kernel"]
    extra = 0.1 * sum(float(np.sum(np.square(k))) for k in kernels)
    assert first_loss(model, data, PLAIN) == pytest.approx(plain + extra, rel=1e-5)


def test_fit_trains_a_distiller_and_tells_its_figures(net, teacher, digits):
    calls = []
    history = fit(
        Distiller(net(1), teacher, views=MILD),
        batches(digits["train"]),
        batches(digits["validation"]),
        epochs=2,
        steps_per_epoch=18,
        learning_rate=1e-2,
        jit_compile=False,
        progress=lambda *arguments: calls.append(arguments),
    )
    assert history["val_kl"][-1] < history["val_kl"][0]
    assert len([done for done, _, _ in calls if done == int(done)]) == 2
    assert {"kl", "agreement", "val_accuracy", "val_teacher_accuracy"} <= set(
        calls[-1][2]
    )
