"""Teacher: trains a network by labels, or takes a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.distill.spec import ViewSpec
from tfcompress.stages.base import (
    Context,
    Network,
    Stage,
    StageResult,
    load_model,
    model_figures,
)

if TYPE_CHECKING:
    from tfcompress.data import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher(Stage):
    """Trains a teacher, or loads the one that `network.load` names.

    Args:
        network: what to train, or the file to load.
        steps: about how many training steps.
        epochs: how many epochs; with both, the longer. Neither: 1000 steps.
        batch_size: images per step.
        learning_rate, weight_decay: see `tfcompress.distill.make_optimizer`.
        views: crops and flips; mode "function_matching" adds mixup.
    """

    name = "teacher"
    gives = ("teacher",)

    network: Network = dataclasses.field(default_factory=Network)
    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    views: ViewSpec = dataclasses.field(
        default_factory=lambda: ViewSpec(mode="consistent", crop="mild")
    )

    def sources(self) -> tuple[Path, ...]:
        return (Path(self.network.load),) if self.network.load else ()

    def check(self, data: Dataset) -> None:
        if self.network.load:
            load_model(self.network.load, data)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.distill import Supervised, evaluate, fit
        from tfcompress.stages.training import schedule

        data = context.data
        model = self.network.make(data, context.seed)
        validation = data.batches("validation", 256)
        if not self.network.load:
            trainer = Supervised(
                model,
                views=self.views.for_data(data.mirror_symmetric),
                seed=context.seed,
            )
            train, epochs, steps = schedule(self, context, default_steps=1000)
            fit(
                trainer,
                train,
                None,
                epochs=epochs,
                steps_per_epoch=steps,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                progress=context.progress,
            )
        path = context.folder / "teacher.keras"
        model.save(path)
        after = model_figures(model, data) | evaluate(model, validation)
        return StageResult({"teacher": path}, {"before": None, "after": after})
