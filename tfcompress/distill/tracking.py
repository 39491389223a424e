"""What a Distiller shows: how far each output is from teacher and labels."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.distill.losses import kl_divergence, squared_error
from tfcompress.distill.outputs import Output, agreement, right

# The teacher's class within the student's first so many.
TOP = 5


class OutputMetrics:
    """Running means for one output.

    Classes: `kl`, `agreement`, with more than five classes `agreement_top5`; with
    labels `accuracy` and `teacher_accuracy`. Values: `error`, the mean squared
    difference.

    Args:
        output: of the student.
        prefix: of the names; of several outputs each has its own.
        classes: their number, None for values.
        temperature: of the divergence.
    """

    def __init__(
        self, output: Output, *, prefix: str, classes: int | None, temperature: float
    ) -> None:
        def mean(name: str) -> keras.metrics.Mean:
            return keras.metrics.Mean(name=prefix + name)

        self._temperature = temperature
        self._divergence = mean("kl" if output.classes else "error")
        self._agreement = mean("agreement") if output.classes else None
        top = output.classes and classes is not None and classes > TOP
        self._agreement_top = mean(f"agreement_top{TOP}") if top else None
        self._accuracy = mean("accuracy") if output.classes else None
        self._teacher = mean("teacher_accuracy") if output.classes else None

    def all(self) -> list[keras.metrics.Metric]:
        """Every running mean, to be reset."""
        found = (
            self._divergence,
            self._agreement,
            self._agreement_top,
            self._accuracy,
            self._teacher,
        )
        return [metric for metric in found if metric is not None]

    def update(
        self, teacher: Any, student: Any, labels: Any = None, weight: Any = None
    ) -> list[keras.metrics.Metric]:
        """Counts a batch in.

        Args:
            teacher, student: comparable outputs.
            labels: of this output, or None.
            weight: of each sample, or None.

        Returns:
            The means that were updated.
        """
        if self._agreement is None:
            self._divergence.update_state(squared_error(teacher, student), weight)
            return [self._divergence]
        divergence = kl_divergence(teacher, student, self._temperature)
        self._divergence.update_state(divergence, weight)
        self._agreement.update_state(agreement(teacher, student), weight)
        shown = [self._divergence, self._agreement]
        if labels is not None:
            self._accuracy.update_state(right(labels, student), weight)
            self._teacher.update_state(right(labels, teacher), weight)
            shown += [self._accuracy, self._teacher]
        return shown

    def update_top(
        self, teacher: Any, student: Any, weight: Any = None
    ) -> list[keras.metrics.Metric]:
        """Counts the agreement within the student's first classes; for validation."""
        if self._agreement_top is None:
            return []
        same = agreement(teacher, student, k=TOP)
        self._agreement_top.update_state(same, weight)
        return [self._agreement_top]
