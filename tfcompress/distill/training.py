"""Training with a given number of steps: by distillation, or by labels."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.checkpoint import Checkpoint, restore_checkpoint
from tfcompress.distill.decay import ProductDecay
from tfcompress.distill.losses import as_logits, kl_divergence, output_kind
from tfcompress.distill.outputs import Output, label_loss, weighted_mean
from tfcompress.distill.samples import as_samples, inputs_only
from tfcompress.distill.schedule import make_optimizer
from tfcompress.distill.spec import ViewSpec
from tfcompress.distill.updates import apply_gradients
from tfcompress.distill.views import make_views

# A short training is validated after every epoch, a long one this many times.
_VALIDATIONS = 20

# Within an epoch, progress is told no more often than this.
_SECONDS_BETWEEN_REPORTS = 0.5

Progress = Callable[[float, int, dict[str, float]], None]


class _Report(keras.callbacks.Callback):
    """Tells a progress function the epochs done, those in all, and the figures."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._epoch = 0
        self._last = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The end of the epoch has its own report, with the validation's figures.
        share = (batch + 1) / self.params["steps"]
        if share < 1 and time.monotonic() - self._last > _SECONDS_BETWEEN_REPORTS:
            self._report(self._epoch + share, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._report(epoch + 1, logs)

    def _report(self, done: float, logs: dict[str, float] | None) -> None:
        figures = {key: float(value) for key, value in (logs or {}).items()}
        self._progress(done, self.params["epochs"], figures)
        self._last = time.monotonic()


class Supervised(keras.Model):
    """Trains a classifier by labels on random views; the teacher's training.

    Args:
        model: gives logits or probabilities `(batch, classes)`.
        views: crop, flip and mixup; the mode "function_matching" mixes images and
            labels, any other only crops.
        seed: of the views.
        **kwargs: as in `keras.Model`, such as `name`.

    Example:
        >>> views = ViewSpec(mode="consistent", crop="mild")
        >>> trainer = Supervised(model, views=views)             # doctest: +SKIP
        >>> trainer.compile("adam", metrics=["accuracy"])        # doctest: +SKIP
        >>> trainer.fit(train, epochs=5)                         # doctest: +SKIP
    """

    def __init__(
        self, model: keras.Model, *, views: ViewSpec, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.views = views
        self.seed = seed
        self._output = Output(
            name="output", kind=output_kind(model), loss=kl_divergence
        )
        self.loss_tracker = keras.metrics.Mean(name="loss")
        # Set by `fit`: decay of factorized layers, which the optimizer leaves to it.
        self.product_decay: Any = None
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        others = (m for m in super().metrics if m.name != "loss")
        return [self.loss_tracker, *others]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        numbers = as_samples(x, tf.cast(self.optimizer.iterations.value, tf.int32))
        views = make_views(
            numbers.inputs,
            tf.stack([tf.fill(tf.shape(numbers.epoch), self.seed), numbers.epoch]),
            self.views,
            samples=numbers.sample,
        )
        with tf.GradientTape() as tape:
            outputs = self.model(views.student, training=True)
            loss = self._by_labels(labels, outputs, sample_weight, views.mix)
            if self.model.losses:
                loss += tf.add_n([tf.cast(x, tf.float32) for x in self.model.losses])
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / float(replicas))
        variables = self.model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self.product_decay is not None:
            self.product_decay.apply(self.optimizer.learning_rate)
        apply_gradients(self.optimizer, gradients, variables)
        self.loss_tracker.update_state(loss)
        return self.compute_metrics(numbers.inputs, labels, outputs)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images = inputs_only(x)
        outputs = self.model(images, training=False)
        loss = self._by_labels(labels, outputs, sample_weight, 1.0)
        self.loss_tracker.update_state(loss)
        return self.compute_metrics(images, labels, outputs, sample_weight)

    def _by_labels(self, labels: Any, outputs: Any, weight: Any, share: Any) -> Any:
        logits = as_logits(outputs, self._output.kind)
        per_sample = label_loss(self._output, labels, logits, share)
        return weighted_mean(per_sample, weight)


def epochs_and_steps(
    *, steps: int | None, epochs: int | None, steps_per_epoch: int
) -> tuple[int, int]:
    """Length of a training as `(epochs, steps per epoch)`.

    Args:
        steps: about how many steps in all; epochs are made as equal as possible.
        epochs: how many passes over the data. With both, the longer of the two: one
            recipe then suits small and large data.
        steps_per_epoch: steps of one pass.

    Raises:
        ValueError: neither `steps` nor `epochs`, or not positive.

    Returns:
        `(epochs, steps of each)`.

    Example:
        >>> epochs_and_steps(steps=1000, epochs=None, steps_per_epoch=300)
        (4, 250)
    """
    given = [value for value in (steps, epochs) if value is not None]
    if not given or min(given) < 1:
        raise ValueError(
            "Give steps, epochs or both, at least 1. "
            f"Received: steps={steps}, epochs={epochs}"
        )
    if steps is None or (epochs or 0) * steps_per_epoch >= steps:
        return epochs, steps_per_epoch
    count = max(math.ceil(steps / steps_per_epoch), 1)
    return count, max(round(steps / count), 1)


def fit(
    trainer: keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    *,
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    warmup_steps: int | None = None,
    algorithm: str = "adam",
    jit_compile: Any = "auto",
    progress: Progress | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    compile_options: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, list[float]]:
    """Compiles a trainer with the paper's optimizer and fits it.

    Args:
        trainer: a `Distiller`, `Supervised` or `Matching`.
        train: batches `(images, labels)`; repeated as needed.
        validation: batches, or None.
        epochs: number of epochs.
        steps_per_epoch: steps of each.
        learning_rate, warmup_steps, algorithm: see `make_optimizer`.
        weight_decay: see `make_optimizer`; of factorized layers it is the product
            that decays, see `ProductDecay`.
        jit_compile: as in `keras.Model.compile`.
        progress: called after each epoch, and now and then within one, with (epochs
            done, epochs in all, figures).
        callbacks: further Keras callbacks.
        compile_options: further arguments of the trainer's `compile`.
        checkpoint: a file that keeps the state of the training: where it exists, the
            training goes on from there, to the same weights where `train` gives the
            same batches in every run. It stays when the training is done.

    Returns:
        Figures by name, one value per epoch in which they were measured.

    Raises:
        OptionError: see `make_optimizer`.
        CheckpointError: see `restore_checkpoint`.

    Example:
        >>> trainer = Distiller(student, teacher)
        >>> figures = fit(trainer, train, validation,         # doctest: +SKIP
        ...               epochs=100, steps_per_epoch=400)
        >>> figures["val_accuracy"][-1]                       # doctest: +SKIP
        0.94
    """
    # As the optimizer's own decay, of which it takes the place.
    decay = ProductDecay(trainer, weight_decay / learning_rate)
    optimizer = make_optimizer(
        steps=epochs * steps_per_epoch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        algorithm=algorithm,
        undecayed=decay.factors(),
    )
    trainer.product_decay = decay if decay.layers and weight_decay else None
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "jit_compile": jit_compile,
        "steps_per_execution": _steps_per_execution(steps_per_epoch),
        **(compile_options or {}),
    }
    if isinstance(trainer, Supervised):
        options["metrics"] = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    trainer.compile(**options)
    if not trainer.optimizer.built:
        # Else the first step makes its variables, and TensorFlow traces it twice.
        with trainer.distribute_strategy.scope():
            trainer.optimizer.build(trainer.trainable_variables)
    done, before, seen = 0, {}, train.repeat()
    if checkpoint is not None:
        done, before = restore_checkpoint(trainer, checkpoint)
        seen = seen.skip(done * steps_per_epoch)
        callbacks = (*callbacks, Checkpoint(checkpoint, history=before))
    if progress is not None:
        callbacks = (*callbacks, _Report(progress))
    history = trainer.fit(
        seen,
        initial_epoch=done,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation,
        validation_freq=max(epochs // _VALIDATIONS, 1),
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
    )
    for key, values in history.history.items():
        before.setdefault(key, []).extend(float(value) for value in values)
    return before


def _steps_per_execution(steps_per_epoch: int) -> int:
    # Keras runs whole executions on endless data: where they do not divide the epoch
    # it takes more steps than asked for, and the schedule ends too early.
    return max(n for n in range(1, 17) if steps_per_epoch % n == 0)
