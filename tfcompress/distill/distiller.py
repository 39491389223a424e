"""Distiller: a Keras model whose train step matches a student to a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.adam import Adam
from tfcompress.distill.checks import check_models, check_outputs, output_shapes
from tfcompress.distill.extras import Extras
from tfcompress.distill.features import FeatureMatch
from tfcompress.distill.outputs import (
    DistillationError,
    comparable,
    label_loss,
    labels_of,
    outputs_of,
    weighted_mean,
)
from tfcompress.distill.samples import Samples, as_samples, inputs_only
from tfcompress.distill.teachers import Reader, Teachers, mean_over_crops
from tfcompress.distill.tracking import OutputMetrics
from tfcompress.distill.updates import apply_gradients
from tfcompress.distill.views import ViewFunction, ViewSpec, make_views
from tfcompress.surgery import recalibrate_batch_norm

_NOT_SAVED = ("teacher", "teachers")


class Distiller(keras.Model):
    """Trains a student to match a teacher on consistent views.

    `fit` takes `(images, labels)` or images alone, as arrays, `tf.data` or
    `keras.utils.PyDataset`; labels only count with `label_weight`, and for the
    accuracies shown. The teacher runs in inference mode, outside the gradient tape, and
    is neither changed nor saved. The views depend on `seed` and the optimizer's step
    counter, or on the epoch and number of each sample where the data are `numbered`: a
    resumed run sees the same ones.

    Args:
        student: the network to train.
        teacher: the network to match, or several; see `ensemble`.
        views: what both see; function matching by default. Or a function
            `view(inputs, key)`, with an integer key `(seed, step)`, that gives what
            both see, or a `Views`.
        loss: how outputs are compared: "kl", "reverse_kl", "js", "hard", "logits",
            "squared_error", or a function `(teacher, student, temperature)` of logits
            in float32 that gives one value per sample. For several outputs a list, or
            a mapping by name. Default: "kl" for classes, "squared_error" for others.
        temperature: T > 0 of both distributions.
        label_weight: weight of the loss by the (mixed) labels.
        features: layers whose outputs are to match as well.
        extra: losses of `keras.distillation`, each with its weight.
        ensemble: how several teachers are combined: "logit_mean", "prob_mean" or
            "kl_sum".
        student_outputs, teacher_outputs: kinds of the outputs (see `KINDS`), where the
            last layers do not tell.
        student_preprocess, teacher_preprocess: what each network does to the images
            first, such as `lambda x: x / 127.5 - 1.0`. Of several teachers a list.
        student_size, teacher_size: `(height, width)` at which each sees the images; by
            default that of its input.
        teacher_dtype: such as "bfloat16", for the teacher's computation.
        teacher_jit: compile the teacher by XLA where the student cannot be.
        teacher_fold: compute with a copy of the teacher whose batch normalization, as
            it is now, is part of the kernels: faster, and equal but for rounding. False
            where the teacher's weights change later.
        seed: of the views.
        **kwargs: as in `keras.Model`, such as `name`.

    Raises:
        DistillationError: different numbers of outputs or classes, a model that is not
            built, or arguments out of range.

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
        teacher: keras.Model | Sequence[keras.Model],
        *,
        views: ViewSpec | ViewFunction | None = None,
        loss: Any = None,
        temperature: float = 1.0,
        label_weight: float = 0.0,
        features: Sequence[FeatureMatch] = (),
        extra: Sequence[tuple[Any, float]] = (),
        ensemble: str = "logit_mean",
        student_outputs: Any = None,
        teacher_outputs: Any = None,
        student_preprocess: Any = None,
        teacher_preprocess: Any = None,
        student_size: Any = None,
        teacher_size: Any = None,
        teacher_dtype: str | None = None,
        teacher_jit: bool = False,
        teacher_fold: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        teachers = list(teacher) if isinstance(teacher, Sequence) else [teacher]
        check_models(student, teachers, temperature, label_weight)
        self.student = student
        self.views = views or ViewSpec()
        self.temperature = temperature
        self.label_weight = label_weight
        self.seed = seed
        outputs = outputs_of(student, kinds=student_outputs, losses=loss)
        self._extras = Extras(student, teachers[0], features, extra, seed=seed)
        if self._extras.projections:
            # Trained along, and part of checkpoints; not of the student.
            self.feature_projections = self._extras.projections
        # A tuple of functions and plain objects: Keras tracks models, and lists.
        self._parts = (
            tuple(outputs),
            Teachers(
                teachers,
                preprocess=teacher_preprocess,
                size=teacher_size,
                kinds=teacher_outputs,
                ensemble=ensemble,
                dtype=teacher_dtype,
                jit_compile=teacher_jit,
                fold=teacher_fold,
                layers=self._extras.teacher_layers,
            ),
            Reader(student, preprocess=student_preprocess, size=student_size),
        )
        check_outputs(outputs, student, teachers, self._teachers.kinds)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._tracking = tuple(
            OutputMetrics(
                output,
                prefix="" if len(outputs) == 1 else f"{output.name}_",
                classes=shape[-1],
                temperature=temperature,
            )
            for output, shape in zip(outputs, output_shapes(student), strict=True)
        )
        # Set by `fit`: decay of factorized layers, which the optimizer leaves to it.
        self.product_decay: Any = None
        self.built = True

    @property
    def _heads(self) -> tuple[Any, ...]:
        return self._parts[0]

    @property
    def _teachers(self) -> Teachers:
        return self._parts[1]

    @property
    def _reader(self) -> Reader:
        return self._parts[2]

    def __dir__(self) -> list[str]:
        # Keras saves the weights of every model that it finds here.
        return [name for name in super().__dir__() if name not in _NOT_SAVED]

    @property
    def teacher(self) -> keras.Model:
        """The (first) teacher, as it was given."""
        return self._teachers.models[0]

    @property
    def teachers(self) -> tuple[keras.Model, ...]:
        """All teachers, as they were given."""
        return self._teachers.models

    @property
    def ensemble(self) -> str:
        """How several teachers are combined."""
        return self._teachers.ensemble

    @property
    def output_kinds(self) -> list[str]:
        """What each output of the student is: one of `KINDS`."""
        return [output.kind for output in self._heads]

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        jit_compile: Any = "auto",
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ) -> None:
        """As `keras.Model.compile`; the loss is the distillation itself.

        "adam" is `tfcompress.distill.Adam`, which takes Keras' steps in less time.
        """
        super().compile(
            optimizer=Adam() if optimizer == "adam" else optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        own = [metric for part in self._tracking for metric in part.all()]
        return [self.loss_tracker, *own]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(self._reader.clean(inputs_only(inputs)), training=training)

    def teacher_logits(self, data: Samples) -> list[Any]:
        """What the student is to match: comparable outputs for the views of a batch.

        Args:
            data: numbered samples.

        Returns:
            For each output float32 logits, or values, of all teachers combined; with
            "kl_sum" for display only.
        """
        views, _ = self._views(data)
        found, _ = self._targets(data, views)
        return self._teachers.combined(found, self.temperature)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None and self.label_weight:
            raise DistillationError(
                f"label_weight={self.label_weight} needs labels: give (images, labels)."
            )
        labels = labels_of(labels, self._heads)
        weights = labels_of(sample_weight, self._heads)
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        numbers = as_samples(x, step)
        teacher_views, student_view = self._views(numbers)
        targets, teacher_features = self._targets(numbers, teacher_views)
        with tf.GradientTape() as tape:
            found, features = self._extras.forward(
                self.student, self._reader.ready(student_view.student)
            )
            logits = comparable(found, [output.kind for output in self._heads])
            loss = self._matching(targets, logits, weights)
            if self.label_weight:
                loss += self.label_weight * self._by_labels(
                    labels, logits, weights, student_view.mix
                )
            loss += self._extras.loss(teacher_features, features, targets[0], logits)
            if self.student.losses:
                loss += tf.add_n([tf.cast(x, tf.float32) for x in self.student.losses])
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / float(replicas))
        variables = self.student.trainable_variables + self._extras.variables
        gradients = tape.gradient(scaled, variables)
        if self.product_decay is not None:
            self.product_decay.apply(self.optimizer.learning_rate)
        apply_gradients(self.optimizer, gradients, variables)
        self.loss_tracker.update_state(loss)
        # Accuracy on mixed images would compare with a label that is half the truth.
        return self._figures(targets, logits, [None] * len(logits), weights)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        inputs = inputs_only(x)
        found = self.student(self._reader.clean(inputs), training=False)
        logits = comparable(found, [output.kind for output in self._heads])
        targets = self._teachers.clean_outputs(inputs)
        weights = labels_of(sample_weight, self._heads)
        losses = self._divergences(targets, logits)
        self.loss_tracker.update_state(tf.add_n(losses), weights[0])
        labels = labels_of(labels, self._heads)
        return self._figures(targets, logits, labels, weights, validation=True)

    def recalibrate(self, data: tf.data.Dataset, *, steps: int = 32) -> None:
        """Batch-norm statistics of the student from clean images.

        Mixed and cropped images have other statistics than those it is used on.

        Args:
            data: batches of images, or `(images, ...)`.
            steps: batches to use at most.
        """
        clean = (
            self._reader.clean(
                inputs_only(keras.utils.unpack_x_y_sample_weight(batch)[0])
            )
            for batch in data
        )
        new = recalibrate_batch_norm(self.student, clean, steps=steps)
        self.student.set_weights(new.get_weights())

    def save(self, filepath: Any, **kwargs: Any) -> None:
        """Saves the student alone."""
        self.student.save(filepath, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Exports the student alone; see `keras.Model.export`."""
        self.student.export(filepath, *args, **kwargs)

    def _views(self, data: Samples) -> tuple[list[Any], Any]:
        """A view for each teacher, and the views at the student's size."""
        key = tf.stack([tf.fill(tf.shape(data.epoch), self.seed), data.epoch])
        if not isinstance(self.views, ViewSpec):
            key = key[:, 0]
        by_size = {}
        for reader in self._teachers.readers:
            if reader.size not in by_size:
                by_size[reader.size] = make_views(
                    data.inputs,
                    key,
                    self.views,
                    samples=data.sample,
                    teacher_size=reader.size,
                    student_size=self._reader.size,
                )
        seen = [by_size[reader.size].teacher for reader in self._teachers.readers]
        return seen, next(iter(by_size.values()))

    def _targets(self, data: Samples, views: list[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs of each teacher, and features of the first."""
        if data.logits:
            return [[tf.cast(x, tf.float32) for x in data.logits]], []
        if isinstance(self.views, ViewSpec) and self.views.teacher == "ensemble":
            return [mean_over_crops(self._teachers, data, self.views, self.seed)], []
        return self._teachers.outputs(views)

    def _divergences(self, targets: list[list[Any]], logits: list[Any]) -> list[Any]:
        """Divergence of each output, per sample."""
        if self._teachers.ensemble != "kl_sum":
            targets = [self._teachers.combined(targets, self.temperature)]
        return [
            tf.add_n([output.loss(t[i], found, self.temperature) for t in targets])
            for i, (output, found) in enumerate(zip(self._heads, logits, strict=True))
        ]

    def _matching(self, targets: Any, logits: list[Any], weights: list[Any]) -> Any:
        losses = self._divergences(targets, logits)
        return tf.add_n(
            [weighted_mean(x, w) for x, w in zip(losses, weights, strict=True)]
        )

    def _by_labels(
        self, labels: list[Any], logits: list[Any], weights: list[Any], share: Any
    ) -> Any:
        parts = zip(self._heads, labels, logits, weights, strict=True)
        return tf.add_n(
            [
                weighted_mean(label_loss(output, y, found, share), weight)
                for output, y, found, weight in parts
                if y is not None
            ]
        )

    def _figures(
        self,
        targets: list[list[Any]],
        logits: list[Any],
        labels: list[Any],
        weights: list[Any],
        *,
        validation: bool = False,
    ) -> dict[str, Any]:
        shown: list[keras.metrics.Metric] = [self.loss_tracker]
        targets = self._teachers.combined(targets, self.temperature)
        for part, *values in zip(
            self._tracking, targets, logits, labels, weights, strict=True
        ):
            shown += part.update(*values)
            if validation:
                shown += part.update_top(values[0], values[1], values[3])
        return {metric.name: metric.result() for metric in shown}
