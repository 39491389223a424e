"""Teacher: trains a network by labels, or takes a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.distill.spec import ViewSpec
from tfcompress.metric import CLASSIFICATION
from tfcompress.stages.base import (
    Context,
    Network,
    StageResult,
    load_model,
    model_figures,
)
from tfcompress.stages.training import Training, check_for_classifiers, train_in

if TYPE_CHECKING:
    from tfcompress.data import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher(Training):
    """Trains a teacher, or loads the one that `network.load` names.

    Args:
        network: what to train, or the file to load.
        steps, epochs: of training, with both the longer; neither: 1000 steps.
        views: crops and flips; mode "function_matching" adds mixup.
        batch_size: images per step.
        learning_rate: its peak.
        weight_decay: decoupled, as in Beyer et al. 2021, table 4.

    Raises:
        OptionError: an argument out of range.

    Example:
        >>> Teacher(network=Network(load="model.keras")).sources()
        (PosixPath('model.keras'),)
    """

    name = "teacher"
    gives = ("teacher",)

    network: Network = dataclasses.field(default_factory=Network)
    views: ViewSpec = dataclasses.field(
        default_factory=lambda: ViewSpec(mode="consistent", crop="mild")
    )

    def sources(self) -> tuple[Path, ...]:
        return (Path(self.network.load),) if self.network.load else ()

    def check(self, data: Dataset) -> None:
        if self.network.load:
            load_model(self.network.load, data)
        if data.task != CLASSIFICATION:
            from tfcompress.tasks import task_of

            # What the task needs may not be installed.
            task_of(data)
        # Boxes and masks would have to move with the pixels.
        check_for_classifiers(self, data, "views")

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.tasks import task_of

        data, task = context.data, task_of(context.data)
        model = self.network.make(data, context.seed)
        validation = data.batches("validation", 256)
        figures = {}
        if not self.network.load:
            trainer, options = task.by_labels(
                model,
                self.views.for_data(data.mirror_symmetric),
                seed=context.seed,
            )
            figures["history"] = train_in(
                self,
                context,
                trainer,
                None,
                default_steps=1000,
                compile_options=options,
            )
        path = context.folder / "teacher.keras"
        model.save(path)
        after = model_figures(model, data) | task.figures(model, validation)
        figures |= {"before": None, "after": after}
        return StageResult({"teacher": path}, figures)
