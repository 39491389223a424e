"""Losses beside the matching of outputs, with one forward pass of either network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.features import (
    FeatureMatch,
    feature_error,
    layer_names,
    projection,
    unscaled,
)
from tfcompress.distill.outputs import DistillationError
from tfcompress.distill.tapping import with_features


class Extras:
    """The features to match, and the extra losses of `keras.distillation`.

    Args:
        student: the network to train.
        teacher: the (first) network to match.
        features: layers to match.
        extra: losses with their weights.
        seed: of projections.

    Raises:
        DistillationError: an unknown layer, or not such a loss.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        features: Sequence[FeatureMatch],
        extra: Sequence[tuple[Any, float]],
        *,
        seed: int,
    ) -> None:
        self.features = tuple(features)
        self._losses = tuple(
            (*layer_names(loss), loss, weight) for loss, weight in extra
        )
        pairs = [(match.teacher, match.student) for match in features]
        for of_teacher, of_student, *_ in self._losses:
            if (of_teacher is None) != (of_student is None):
                raise DistillationError(
                    "An extra loss names a layer of both networks, or of none. "
                    f"Received: {of_teacher} and {of_student}"
                )
            if of_teacher is not None:
                pairs.append((of_teacher, of_student))
        self.teacher_layers = tuple(pair[0] for pair in pairs)
        # Functions and no models: what they hold is tracked where it belongs.
        self._tapped: Any = None
        self._projections: tuple[Any, ...] = ()
        if pairs:
            tapped = with_features(student, [pair[1] for pair in pairs])
            self._tapped = lambda x: tapped(x, training=True)
            teacher_shapes = [
                tensor.shape
                for tensor in with_features(teacher, self.teacher_layers).output[1]
            ]
            self._projections = tuple(
                projection(there, here.shape, seed + i)
                for i, (there, here) in enumerate(
                    zip(teacher_shapes, tapped.output[1], strict=True)
                )
                if i < len(self.features)
            )

    @property
    def variables(self) -> list[Any]:
        """What is trained beside the student."""
        return [v for layer in self.projections for v in layer.variables]

    @property
    def projections(self) -> list[keras.layers.Layer]:
        """What brings the student's features to the teacher's channels."""
        return [layer for layer in self._projections if layer is not None]

    def forward(self, student: keras.Model, inputs: Any) -> tuple[Any, list[Any]]:
        """The student's outputs and features, in training mode, by one pass."""
        if self._tapped is None:
            return student(inputs, training=True), []
        outputs, features = self._tapped(inputs)
        return outputs, features

    def loss(
        self,
        teacher_features: list[Any],
        student_features: list[Any],
        targets: list[Any],
        logits: list[Any],
    ) -> Any:
        """The weighted sum of the extra losses, a scalar.

        Raises:
            DistillationError: features are wanted where the teacher does not run.
        """
        total = tf.constant(0.0)
        if student_features and not teacher_features:
            raise DistillationError(
                "Cached logits hold no features: match features with the teacher at "
                "hand, or leave `features` and `extra` out."
            )
        pairs = list(zip(teacher_features, student_features, strict=True))
        for match, project, (theirs, ours) in zip(
            self.features, self._projections, pairs, strict=False
        ):
            ours = ours if project is None else project(tf.cast(ours, tf.float32))
            total += match.weight * tf.reduce_mean(feature_error(theirs, ours))
        rest = iter(pairs[len(self.features) :])
        for of_teacher, _, loss, weight in self._losses:
            if of_teacher is not None:
                theirs, ours = next(rest)
            else:
                theirs, ours = (x[0] if len(x) == 1 else x for x in (targets, logits))
            total += weight * tf.cast(
                unscaled(loss, loss.compute_loss(theirs, ours)), tf.float32
            )
        return total
