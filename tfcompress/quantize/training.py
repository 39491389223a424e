"""Training of `tf_keras` twins: by the Keras 3 teacher's outputs, or by labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.outputs import (
    comparable,
    label_loss,
    labels_of,
    outputs_of,
    weighted_mean,
)
from tfcompress.distill.spec import ViewSpec
from tfcompress.distill.views import make_views
from tfcompress.errors import OptionError
from tfcompress.quantize.legacy import toolkit

Progress = Callable[[float, int, dict[str, float]], None]

# As in `make_optimizer`.
_WARM_UP = 1 / 20
_UNDECAYED = ["bias", "gamma", "beta"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a twin is trained.

    Args:
        epochs: number of epochs.
        steps_per_epoch: steps of each; None for data of known length.
        learning_rate: its peak; warm-up and cosine as in `make_optimizer`.
        weight_decay: see `make_optimizer`.
        by: "distillation" (matching the float model) or "labels".
        temperature: of both distributions.
        views: what both see: crops, flips, mixup; None: the inputs as they are.
        seed: of the views.

    Raises:
        OptionError: an argument out of range.

    Example:
        >>> Training(epochs=5).steps(tf.data.Dataset.range(6).batch(2))
        3
    """

    epochs: int = 3
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    by: str = "distillation"
    temperature: float = 1.0
    views: ViewSpec | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("distillation", "labels"):
            raise OptionError(
                f"Train by 'distillation' or 'labels'. Received: by={self.by!r}"
            )
        for name in ("epochs", "steps_per_epoch", "learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{name} must be positive. Received: {value}")
        if not self.weight_decay >= 0:
            raise OptionError(
                f"weight_decay must not be negative. Received: {self.weight_decay}"
            )

    def steps(self, train: tf.data.Dataset) -> int:
        """Steps of an epoch.

        Raises:
            OptionError: data without a length, and no `steps_per_epoch`.
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        count = int(train.cardinality())
        if count < 1:
            raise OptionError(
                "The training data have no known length: give steps_per_epoch."
            )
        return count


def train_twin(
    twin: Any,
    teacher: keras.Model,
    train: tf.data.Dataset,
    training: Training,
    *,
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Trains a `tf_keras` model in place.

    Args:
        twin: has the inputs and outputs of `teacher`.
        teacher: the float Keras 3 model; it is not changed, and its last layers tell
            what the outputs are.
        train: batches `(inputs, labels)`; labels only count where they are learned.
        training: how.
        callbacks: of `tf_keras`, such as tfmot's for pruning.
        progress: called after each epoch with (epochs done, epochs in all, figures).

    Returns:
        The loss of each epoch.
    """
    steps = training.steps(train)
    trainer = _trainer_class()(twin, teacher, training)
    trainer.compile(_optimizer(training, steps * training.epochs), jit_compile=False)
    history = trainer.fit(
        train.repeat(),
        epochs=training.epochs,
        steps_per_epoch=steps,
        callbacks=[*_on(twin, callbacks), _report(progress, training.epochs)],
        verbose=0,
    )
    return {"loss": [float(value) for value in history.history["loss"]]}


@functools.cache
def _trainer_class() -> type:
    _, tf_keras = toolkit()

    class Trainer(tf_keras.Model):
        def __init__(self, twin: Any, teacher: Any, training: Training) -> None:
            super().__init__()
            self.twin = twin
            # In a function: a Keras 3 model is none of its layers.
            self._expected = lambda inputs: teacher(inputs, training=False)
            self._spec = training
            self._heads = tuple(outputs_of(teacher))

        def train_step(self, data: Any) -> dict[str, Any]:
            inputs, labels, weight = tf_keras.utils.unpack_x_y_sample_weight(data)
            spec, kinds = self._spec, [head.kind for head in self._heads]
            student = teacher = inputs
            share: Any = 1.0
            if spec.views is not None:
                step = tf.cast(self.optimizer.iterations, tf.int32)
                key = tf.stack([tf.constant(spec.seed, tf.int32), step])
                views = make_views(inputs, key, spec.views)
                student, teacher, share = views.student, views.teacher, views.mix
            expected = labels_of(labels, self._heads)
            if spec.by == "distillation":
                expected = comparable(self._expected(teacher), kinds)
            with tf.GradientTape() as tape:
                found = comparable(self.twin(student, training=True), kinds)
                loss = tf.add_n(
                    [
                        weighted_mean(self._one(head, e, f, share), weight)
                        for head, e, f in zip(self._heads, expected, found, strict=True)
                    ]
                )
                loss += tf.add_n([tf.constant(0.0), *self.twin.losses])
            variables = self.twin.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return {"loss": loss}

        def _one(self, head: Any, expected: Any, found: Any, share: Any) -> Any:
            if self._spec.by == "distillation":
                return head.loss(expected, found, self._spec.temperature)
            return label_loss(head, expected, found, share)

    return Trainer


def _optimizer(training: Training, steps: int) -> Any:
    """`tfcompress.distill.make_optimizer`, of tf_keras."""
    _, tf_keras = toolkit()
    warmup = max(int(steps * _WARM_UP), 1)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(steps - warmup, 1),
        warmup_target=training.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = tf_keras.optimizers.AdamW(
        schedule,
        weight_decay=training.weight_decay / training.learning_rate,
        global_clipnorm=1.0,
    )
    optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
    return optimizer


def _on(twin: Any, callbacks: Sequence[Any]) -> list[Any]:
    """Callbacks that look at the twin's layers, and not at the trainer's."""
    for callback in callbacks:
        callback.set_model(twin)
        callback.set_model = lambda model: None
    return list(callbacks)


def _report(progress: Progress | None, epochs: int) -> Any:
    _, tf_keras = toolkit()

    def told(epoch: int, logs: Any) -> None:
        if progress is not None:
            figures = {key: float(value) for key, value in (logs or {}).items()}
            progress(epoch + 1, epochs, figures)

    return tf_keras.callbacks.LambdaCallback(on_epoch_end=told)
