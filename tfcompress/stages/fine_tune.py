"""FineTune: trains the compressed model on, by the teacher or by labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tfcompress.stages.base import (
    Context,
    StageResult,
    choose,
    load_model,
    model_figures,
)
from tfcompress.stages.training import DistillationTraining, train_in

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

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.distill import Distiller, Supervised, evaluate
        from tfcompress.surgery import recalibrate_batch_norm

        data = context.data
        teacher = load_model(inputs["teacher"], data)
        model = load_model(inputs["compressed"], data)
        validation = data.batches("validation", 256)
        before = model_figures(model, data)
        before |= evaluate(model, validation, teacher=teacher)
        views = self.views.for_data(data.mirror_symmetric)
        if self.by == "labels":
            trainer = Supervised(model, views=views, seed=context.seed)
        else:
            trainer = Distiller(
                model,
                teacher,
                views=views,
                temperature=self.temperature,
                label_weight=self.label_weight,
                seed=context.seed,
            )
        history = train_in(self, context, trainer, None, default_steps=1000)
        after = evaluate(model, validation, teacher=teacher)
        # After few steps the moving averages are behind the weights.
        train = data.batches("train", 256, shuffle_seed=context.seed)
        fresh = recalibrate_batch_norm(model, train, steps=_RECALIBRATION_STEPS)
        found = evaluate(fresh, validation, teacher=teacher)
        if (found["accuracy"], -found["kl"]) > (after["accuracy"], -after["kl"]):
            model, after = fresh, found
        path = context.folder / "compressed.keras"
        model.save(path)
        after |= model_figures(model, data)
        figures = {"before": before, "after": after, "history": history}
        return StageResult({"compressed": path}, figures)
