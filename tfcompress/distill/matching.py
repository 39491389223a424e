"""Matching: fine-tunes any network towards a teacher's outputs, its labels, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.divergence import Divergence, output_divergence
from tfcompress.distill.outputs import DistillationError
from tfcompress.distill.updates import apply_gradients


class Matching(keras.Model):
    """Trains a student of any task: regression, segmentation, several outputs.

    Unlike the `Distiller` it knows nothing of classes or images: student and teacher
    see the same inputs, as they come or through a view function.

    Args:
        student: the network to train.
        teacher: the network to match, or None. It is neither changed nor saved.
        match_weight: weight of the divergence from the teacher's outputs.
        label_weight: weight of the loss given to `compile`.
        divergence: of the outputs; see `output_divergence`.
        view: `view(inputs, key) -> inputs`, applied before both networks; `key` is an
            int32 tensor `(seed, step)` for stateless random operations.
        seed: of the views.
        **kwargs: as in `keras.Model`, such as `name`.

    Example:
        >>> trainer = Matching(student, teacher, label_weight=0.1)  # doctest: +SKIP
        >>> trainer.compile("adam", loss="mse", metrics=["mae"])    # doctest: +SKIP
        >>> trainer.fit(x, y)                                       # doctest: +SKIP
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | None = None,
        *,
        match_weight: float = 1.0,
        label_weight: float = 0.0,
        divergence: Divergence = output_divergence,
        view: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.student = student
        # A tuple of a function keeps the teacher out of Keras' tracking.
        self._teacher = ()
        if teacher is not None:
            self._teacher = (lambda x: teacher(x, training=False),)
        self.match_weight = match_weight if teacher is not None else 0.0
        self.label_weight = label_weight
        self.seed = seed
        # `compile` looks here for the names that its losses and metrics go by.
        self.output_names = getattr(student, "output_names", None)
        self._divergence = divergence
        self._view = view
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.divergence_tracker = keras.metrics.Mean(name="divergence")
        # Set by `fit`: decay of factorized layers, which the optimizer leaves to it.
        self.product_decay: Any = None
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        own = {"loss": self.loss_tracker, "divergence": self.divergence_tracker}
        # Keras' own "loss" is never updated here, and would stand for ours.
        others = [m for m in super().metrics if m.name not in own]
        return [*(own.values() if self._teacher else [self.loss_tracker]), *others]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpacked(data)
        if self._view is not None:
            step = tf.cast(self.optimizer.iterations.value, tf.int32)
            x = self._view(x, tf.stack([tf.constant(self.seed, tf.int32), step]))
        expected = self._expected(x)
        with tf.GradientTape() as tape:
            outputs = self.student(x, training=True)
            loss = self._loss(x, y, outputs, sample_weight, expected)
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / float(replicas))
        variables = self.student.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self.product_decay is not None:
            self.product_decay.apply(self.optimizer.learning_rate)
        apply_gradients(self.optimizer, gradients, variables)
        return self._figures(x, y, outputs, sample_weight, loss)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpacked(data)
        outputs = self.student(x, training=False)
        loss = self._loss(x, y, outputs, sample_weight, self._expected(x))
        return self._figures(x, y, outputs, sample_weight, loss)

    def _unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None and self.label_weight:
            raise DistillationError(
                f"label_weight={self.label_weight} needs labels: give (inputs, labels)."
            )
        return x, y, sample_weight

    def _expected(self, x: Any) -> Any:
        return self._teacher[0](x) if self._teacher else None

    def _loss(
        self, x: Any, y: Any, outputs: Any, sample_weight: Any, expected: Any
    ) -> Any:
        penalties = [tf.cast(loss, tf.float32) for loss in self.student.losses]
        penalty = tf.add_n(penalties) if penalties else tf.constant(0.0)
        total = penalty
        if self._teacher:
            divergence = self._divergence(expected, outputs)
            self.divergence_tracker.update_state(divergence, _samples(x))
            total += self.match_weight * divergence
        if self.label_weight:
            # `compute_loss` counts the penalties as well, and a replica's share only.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            both = self.compute_loss(x, y, outputs, sample_weight) * float(replicas)
            labels = both - penalty
            total += self.label_weight * labels
        return total

    def _figures(
        self, x: Any, y: Any, outputs: Any, sample_weight: Any, loss: Any
    ) -> dict[str, Any]:
        self.loss_tracker.update_state(loss, _samples(x))
        if y is not None:
            return self.compute_metrics(x, y, outputs, sample_weight)
        own = {self.loss_tracker, self.divergence_tracker}
        return {m.name: m.result() for m in self.metrics if m in own}


def _samples(x: Any) -> Any:
    # A small last batch counts for no more than its samples.
    return tf.shape(tf.nest.flatten(x)[0])[0]
