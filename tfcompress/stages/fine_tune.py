"""FineTune: trains the compressed model on, by the teacher or by labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.stages.base import (
    Context,
    StageResult,
    choose,
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
    from tfcompress.data import Dataset

_RECALIBRATION_STEPS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune(DistillationTraining):
    """Fine-tunes the compressed model, its weight decay on the product of factors.

    Args:
        by: "distillation" (matching the teacher) or "labels".
        steps, epochs: of training, with both the longer; neither: 1000 steps.
        views: what teacher and student see.
        batch_size: images per step.
        learning_rate: its peak.
        weight_decay: decoupled, as in Beyer et al. 2021, table 4.
        temperature: of both distributions, above 0.
        label_weight: weight of the cross-entropy with the labels; 0 uses none.

    Raises:
        OptionError: an argument out of range, or a name that does not exist.

    Example:
        >>> FineTune(by="labels", epochs=5).needs
        ('teacher', 'compressed')
    """

    name = "fine_tune"
    needs = ("teacher", "compressed")
    gives = ("compressed",)

    by: str = "distillation"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.by, {"distillation": 1, "labels": 1}, "way of fine-tuning")

    def check(self, data: Dataset) -> None:
        views = ("views",) if self.by == "labels" else ()
        check_for_classifiers(self, data, "temperature", "label_weight", *views)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.surgery import recalibrate_batch_norm
        from tfcompress.tasks import task_of

        data, task = context.data, task_of(context.data)
        teacher = load_model(inputs["teacher"], data)
        model = load_model(inputs["compressed"], data)
        validation = data.batches("validation", 256)
        before = model_figures(model, data)
        before |= task.figures(model, validation, teacher)
        views = self.views.for_data(data.mirror_symmetric)
        if self.by == "labels":
            trainer, options = task.by_labels(model, views, seed=context.seed)
        else:
            trainer, options = task.by_teacher(
                model,
                teacher,
                views=views,
                temperature=self.temperature,
                label_weight=self.label_weight,
                seed=context.seed,
            )
        history = train_in(
            self, context, trainer, None, default_steps=1000, compile_options=options
        )
        after = task.figures(model, validation, teacher)
        # After few steps the moving averages are behind the weights.
        train = data.batches("train", 256, shuffle_seed=context.seed)
        fresh = recalibrate_batch_norm(model, train, steps=_RECALIBRATION_STEPS)
        found = task.figures(fresh, validation, teacher)
        if rank(task, found) > rank(task, after):
            model, after = fresh, found
        path = context.folder / "compressed.keras"
        model.save(path)
        after |= model_figures(model, data)
        figures = {"before": before, "after": after, "history": history}
        return StageResult({"compressed": path}, figures)
