"""Distiller: a Keras model whose train step matches a student to a teacher."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.losses import as_logits, kl_divergence, output_kind
from tfcompress.distill.views import ViewSpec, make_views
from tfcompress.errors import TfcompressError


class DistillationError(TfcompressError, ValueError):
    """Teacher and student do not fit together."""


class _Untracked:
    """Keeps the teacher out of Keras' tracking: not saved, not trained, not changed."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model


class Distiller(keras.Model):
    """Trains a student to match a teacher on consistent views.

    `fit` takes `(images, labels)` or images alone; labels only count with
    `label_weight`, and for the accuracies shown. The teacher runs in inference mode,
    outside the gradient tape, and is neither changed nor saved. The views depend on
    `seed` and the optimizer's step counter: a resumed run sees the same ones.

    Args:
        student: the network to train, giving logits or probabilities
            `(batch, classes)`.
        teacher: the network to match, same inputs and classes.
        views: what both see; function matching by default.
        temperature: T > 0 of both distributions.
        label_weight: weight of the cross-entropy with the (mixed) labels.
        seed: of the views.

    Raises:
        DistillationError: different numbers of classes, a model that is not built, or
            arguments out of range.

    Reference: Beyer et al. 2021, "Knowledge distillation: A good teacher is patient
    and consistent", section 3.1.

    Example:
        >>> distiller = Distiller(student, teacher)           # doctest: +SKIP
        >>> distiller.compile(optimizer="adam")               # doctest: +SKIP
        >>> distiller.fit(train, validation_data=validation)  # doctest: +SKIP
        >>> distiller.student.save("student.keras")           # doctest: +SKIP
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        views: ViewSpec | None = None,
        temperature: float = 1.0,
        label_weight: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(student, teacher, temperature, label_weight)
        self.student = student
        self.views = views or ViewSpec()
        self.temperature = temperature
        self.label_weight = label_weight
        self.seed = seed
        self._teacher = _Untracked(teacher)
        self._kinds = (output_kind(student), output_kind(teacher))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.accuracy_tracker = keras.metrics.Mean(name="accuracy")
        self.agreement_tracker = keras.metrics.Mean(name="agreement")
        self.teacher_tracker = keras.metrics.Mean(name="teacher_accuracy")
        # Set by `fit`: decay of factorized layers, which the optimizer leaves to it.
        self.product_decay: Any = None
        self.built = True

    @property
    def teacher(self) -> keras.Model:
        """The teacher, as it was given."""
        return self._teacher.model

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        jit_compile: Any = "auto",
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ) -> None:
        """As `keras.Model.compile`; the loss is the distillation itself."""
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [
            self.loss_tracker,
            self.kl_tracker,
            self.accuracy_tracker,
            self.agreement_tracker,
            self.teacher_tracker,
        ]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None and self.label_weight:
            raise DistillationError(
                f"label_weight={self.label_weight} needs labels: give (images, labels)."
            )
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        key = tf.stack([tf.constant(self.seed, tf.int32), step])
        views = make_views(images, key, self.views)
        teacher_logits = self._logits(self.teacher, views.teacher, training=False)
        with tf.GradientTape() as tape:
            logits = self._logits(self.student, views.student, training=True)
            kl = kl_divergence(teacher_logits, logits, self.temperature)
            per_sample = kl
            if self.label_weight:
                entropy = _mixed_cross_entropy(labels, logits, views.mix)
                per_sample = kl + self.label_weight * entropy
            loss = _weighted_mean(per_sample, sample_weight)
            if self.student.losses:
                loss += tf.add_n([tf.cast(x, tf.float32) for x in self.student.losses])
            scaled = self.optimizer.scale_loss(loss)
        variables = self.student.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self.product_decay is not None:
            self.product_decay.apply(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, variables)
        self.loss_tracker.update_state(loss)
        self.kl_tracker.update_state(kl)
        self.agreement_tracker.update_state(_same_class(teacher_logits, logits))
        # Accuracy on mixed images would compare with a label that is half the truth.
        return {m.name: m.result() for m in self.metrics[:2] + [self.metrics[3]]}

    def test_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        logits = self._logits(self.student, images, training=False)
        teacher_logits = self._logits(self.teacher, images, training=False)
        kl = kl_divergence(teacher_logits, logits, self.temperature)
        self.loss_tracker.update_state(kl, sample_weight)
        self.kl_tracker.update_state(kl, sample_weight)
        self.agreement_tracker.update_state(
            _same_class(teacher_logits, logits), sample_weight
        )
        shown = [self.loss_tracker, self.kl_tracker, self.agreement_tracker]
        if labels is not None:
            self.accuracy_tracker.update_state(_right(labels, logits), sample_weight)
            self.teacher_tracker.update_state(
                _right(labels, teacher_logits), sample_weight
            )
            shown += [self.accuracy_tracker, self.teacher_tracker]
        return {metric.name: metric.result() for metric in shown}

    def _logits(self, model: keras.Model, images: Any, *, training: bool) -> Any:
        kind = self._kinds[0 if model is self.student else 1]
        return as_logits(model(images, training=training), kind)

    def save(self, filepath: Any, **kwargs: Any) -> None:
        """Saves the student alone."""
        self.student.save(filepath, **kwargs)


def _check(
    student: keras.Model, teacher: keras.Model, temperature: float, label_weight: float
) -> None:
    if not temperature > 0:
        raise DistillationError(
            f"temperature must be positive. Received: temperature={temperature}"
        )
    if label_weight < 0:
        raise DistillationError(
            f"label_weight must not be negative. Received: {label_weight}"
        )
    for role, model in (("student", student), ("teacher", teacher)):
        if not model.built:
            raise DistillationError(
                f"The {role} '{model.name}' is not built: give it an Input layer or "
                "call it once."
            )
    shapes = [getattr(model, "output_shape", None) for model in (student, teacher)]
    for role, shape in zip(("student", "teacher"), shapes, strict=True):
        if shape is not None and not _is_class_shape(shape):
            raise DistillationError(
                f"The {role} must give one output (batch, classes). "
                f"Received: output shape {shape}"
            )
    if None not in shapes and shapes[0][-1] != shapes[1][-1]:
        raise DistillationError(
            f"Teacher and student must have the same classes: the teacher "
            f"'{teacher.name}' gives {shapes[1][-1]}, the student '{student.name}' "
            f"{shapes[0][-1]}."
        )


def _is_class_shape(shape: Any) -> bool:
    return len(shape) == 2 and isinstance(shape[-1], int)


def _weighted_mean(values: Any, sample_weight: Any) -> Any:
    if sample_weight is None:
        return tf.reduce_mean(values)
    weight = tf.reshape(tf.cast(sample_weight, values.dtype), (-1,))
    return tf.reduce_mean(values * weight)


def _mixed_cross_entropy(labels: Any, logits: Any, share: Any) -> Any:
    labels = tf.cast(tf.reshape(labels, (-1,)), tf.int32)
    own = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    partner = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.roll(labels, 1, axis=0), logits
    )
    return share * own + (1.0 - share) * partner


def _same_class(a: Any, b: Any) -> Any:
    return tf.cast(tf.argmax(a, -1) == tf.argmax(b, -1), tf.float32)


def _right(labels: Any, logits: Any) -> Any:
    labels = tf.cast(tf.reshape(labels, (-1,)), tf.int64)
    return tf.cast(tf.argmax(logits, -1) == labels, tf.float32)
