"""Checkpoints: a stopped training goes on to the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.distill import (
    CheckpointError,
    Distiller,
    FeatureMatch,
    Supervised,
    ViewSpec,
    fit,
    restore_checkpoint,
    save_checkpoint,
)
from tfcompress.distill.checkpoint import Checkpoint
from tfcompress.surgery import factorize


@pytest.fixture(scope="module")
def data(digits):
    images, labels = (part[:96] for part in digits["train"])
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)


def student_of(net, kind):
    if kind == "dropout":
        inner = net(1)
        return keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Dropout(0.3, seed=4), *inner.layers]
        )
    if kind == "low rank":
        model = net(1)
        return factorize(model, {model.layers[-1].name: ("FactorizedDense", (4,))})
    return net(1)


def trainer_of(net, kind):
    student = student_of(net, kind)
    if kind == "labels":
        return student, Supervised(student, views=ViewSpec(), seed=2)
    features = []
    if kind == "features":
        teacher = net(5, width=8)
        names = [model.layers[0].name for model in (teacher, student)]
        features = [FeatureMatch(teacher=names[0], student=names[1])]
    else:
        teacher = net(5)
    return student, Distiller(student, teacher, features=features, seed=2)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


OPTIONS = {"epochs": 5, "steps_per_epoch": 3, "jit_compile": False}


@pytest.mark.parametrize("kind", ["plain", "dropout", "low rank", "labels", "features"])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(
    net, data, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(Checkpoint.__init__, "__kwdefaults__", {"seconds": 0.0})
    whole, trainer = trainer_of(net, kind)
    expected = fit(trainer, data, data, **OPTIONS)
    path = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(
            trainer_of(net, kind)[1],
            data,
            data,
            checkpoint=path,
            callbacks=[Stop()],
            **OPTIONS,
        )
    resumed, trainer = trainer_of(net, kind)
    found = fit(trainer, data, data, checkpoint=path, **OPTIONS)
    # Figures of all epochs, those before the stop included.
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-6)
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    # A training that is done has nothing left to do.
    again, trainer = trainer_of(net, kind)
    fit(trainer, data, data, checkpoint=path, **OPTIONS)
    for a, b in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_backup_and_restore_of_keras_goes_on_as_well(net, data, tmp_path):
    # Distiller.fit as it is: Keras' own callback, and our step-counted views.
    def run(stop):
        student = net(1)
        distiller = Distiller(student, net(5), seed=2)
        distiller.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
        distiller.fit(data, epochs=5, callbacks=callbacks + stop, verbose=0)
        return student

    expected = run([])
    with pytest.raises(KeyboardInterrupt):
        run([Stop()])
    resumed = run([])
    for a, b in zip(expected.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_broken_and_foreign_files(net, data, tmp_path):
    path = tmp_path / "state.npz"
    _, trainer = trainer_of(net, "plain")
    trainer.compile("adam")
    assert restore_checkpoint(trainer, path) == (0, {})
    trainer.optimizer.build(trainer.trainable_variables)
    save_checkpoint(trainer, path, epoch=3)
    assert restore_checkpoint(trainer, path).epoch == 3
    assert not list(tmp_path.glob("*.tmp"))
    other = Distiller(net(1, width=9), net(5))
    other.compile("adam")
    with pytest.raises(CheckpointError, match="is of another training"):
        restore_checkpoint(other, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="Cannot read the checkpoint"):
        restore_checkpoint(trainer, path)
