"""Distill: a student learns to match the teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.distill.spec import ALGORITHMS, LOSS_NAMES
from tfcompress.errors import OptionError, nearest
from tfcompress.metric import CLASSIFICATION
from tfcompress.stages.base import (
    Context,
    Network,
    StageResult,
    load_model,
    model_figures,
)
from tfcompress.stages.training import (
    DistillationTraining,
    check_for_classifiers,
    rank,
    train_in,
)

if TYPE_CHECKING:
    import keras

    from tfcompress.data import Dataset

# Batches of 256 images that batch norm's statistics are taken from, at most.
_RECALIBRATION_STEPS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(DistillationTraining):
    """Trains a smaller student to match the teacher, by function matching.

    Args:
        student: what to train; a loaded one is trained on.
        steps, epochs: of training, with both the longer; neither: 3000 steps.
        views: what teacher and student see.
        loss: how outputs are compared, a key of `LOSSES`.
        algorithm: "adam", or "soap", a second-order optimizer.
        warmup_steps: steps of linear warm-up; 5 % of all by default.
        recalibrate: renew the batch-norm statistics on whole images at the end, where
            that is better on validation.
        batch_size: images per step.
        learning_rate: its peak.
        weight_decay: decoupled, as in Beyer et al. 2021, table 4.
        temperature: of both distributions, above 0.
        label_weight: weight of the cross-entropy with the labels; 0 uses none.

    Raises:
        OptionError: an argument out of range, or a name that does not exist.

    Example:
        >>> Distill(student=Network(depth=8), epochs=100, temperature=2.0).gives
        ('student',)
    """

    name = "distill"
    needs = ("teacher",)
    gives = ("student",)

    student: Network = dataclasses.field(default_factory=lambda: Network(depth=8))
    loss: str = "kl"
    algorithm: str = "adam"
    warmup_steps: int | None = None
    recalibrate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("loss", self.loss, LOSS_NAMES),
            ("algorithm", self.algorithm, ALGORITHMS),
        ):
            if value not in known:
                raise OptionError(f"No {name} '{value}'; {nearest(value, known)}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise OptionError(
                f"warmup_steps must be at least 0. Received: {self.warmup_steps}"
            )

    @classmethod
    def with_preset(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        from tfcompress.distill import paper_run

        run = paper_run(name)
        shared = ("batch_size", "learning_rate", "weight_decay", "temperature")
        options = {key: getattr(run, key) for key in (*shared, "warmup_steps")}
        options["views"] = {"mode": run.views.mode, "crop": run.views.crop}
        # Steps are another word for the length.
        if "steps" not in given:
            options["epochs"] = run.epochs
        return options | dict(given)

    def sources(self) -> tuple[Path, ...]:
        return (Path(self.student.load),) if self.student.load else ()

    def check(self, data: Dataset) -> None:
        check_for_classifiers(self, data, "loss", "temperature", "label_weight")
        if self.student.load:
            load_model(self.student.load, data)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.tasks import task_of

        data, task = context.data, task_of(context.data)
        teacher = load_model(inputs["teacher"], data)
        student = self.student.make(data, context.seed)
        distiller, options = task.by_teacher(
            student,
            teacher,
            views=self.views.for_data(data.mirror_symmetric),
            loss=self.loss,
            temperature=self.temperature,
            label_weight=self.label_weight,
            seed=context.seed,
        )
        validation = data.batches("validation", 256)
        before = model_figures(teacher, data)
        before |= task.figures(teacher, validation, teacher)
        history = train_in(
            self,
            context,
            distiller,
            # Its own validation knows classes.
            validation if data.task == CLASSIFICATION else None,
            default_steps=3000,
            algorithm=self.algorithm,
            warmup_steps=self.warmup_steps,
            compile_options=options,
        )
        after = task.figures(student, validation, teacher)
        if self.recalibrate:
            student, after = self._recalibrated(student, after, context, teacher)
        path = context.folder / "student.keras"
        student.save(path)
        after |= model_figures(student, data)
        figures = {"before": before, "after": after, "history": history}
        return StageResult({"student": path}, figures)

    def _recalibrated(
        self,
        student: keras.Model,
        figures: dict[str, float],
        context: Context,
        teacher: keras.Model,
    ) -> tuple[keras.Model, dict[str, float]]:
        """The student and its figures with new batch-norm statistics, if better."""
        from tfcompress.surgery import recalibrate_batch_norm
        from tfcompress.tasks import task_of

        data = context.data
        train = data.batches("train", 256, shuffle_seed=context.seed)
        fresh = recalibrate_batch_norm(student, train, steps=_RECALIBRATION_STEPS)
        task = task_of(data)
        found = task.figures(fresh, data.batches("validation", 256), teacher)
        better = rank(task, found) > rank(task, figures)
        return (fresh, found) if better else (student, figures)
