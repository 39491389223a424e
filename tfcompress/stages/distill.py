"""Distill: a student learns to match the teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.stages.base import (
    Context,
    Network,
    StageResult,
    load_model,
    model_figures,
)
from tfcompress.stages.training import DistillationTraining, train_in

if TYPE_CHECKING:
    from tfcompress.data import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(DistillationTraining):
    """Trains a smaller student to match the teacher, by function matching.

    Args:
        student: what to train; a loaded one is trained on.
        steps, epochs: neither: 3000 steps.
        views: what teacher and student see.
    """

    name = "distill"
    needs = ("teacher",)
    gives = ("student",)

    student: Network = dataclasses.field(default_factory=lambda: Network(depth=8))

    def sources(self) -> tuple[Path, ...]:
        return (Path(self.student.load),) if self.student.load else ()

    def check(self, data: Dataset) -> None:
        if self.student.load:
            load_model(self.student.load, data)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.distill import Distiller, evaluate

        data = context.data
        teacher = load_model(inputs["teacher"], data)
        student = self.student.make(data, context.seed)
        distiller = Distiller(
            student,
            teacher,
            views=self.views.for_data(data.mirror_symmetric),
            temperature=self.temperature,
            label_weight=self.label_weight,
            seed=context.seed,
        )
        validation = data.batches("validation", 256)
        before = model_figures(teacher, data)
        before |= evaluate(teacher, validation, teacher=teacher)
        history = train_in(self, context, distiller, validation, default_steps=3000)
        path = context.folder / "student.keras"
        student.save(path)
        after = model_figures(student, data)
        after |= evaluate(student, validation, teacher=teacher)
        figures = {"before": before, "after": after, "history": history}
        return StageResult({"student": path}, figures)
