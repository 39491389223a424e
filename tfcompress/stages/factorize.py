"""Factorize: ranks for a budget, factors, recalibrated batch norm; no training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import NothingToCompressError
from tfcompress.ranks import SELECTORS
from tfcompress.ranks.plan import Budget
from tfcompress.stages.base import (
    Context,
    Stage,
    StageResult,
    choose,
    load_model,
    model_figures,
)
from tfcompress.stages.compress import final_layers, make_selector
from tfcompress.stages.training import check_number

if TYPE_CHECKING:
    from tfcompress.data import Dataset

# Of the batches that the layers' inputs are measured on.
_BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factorize(Stage):
    """Factorizes the student (or the teacher) once; `fine_tune` belongs behind it.

    Args:
        target: what the result may cost, relative to the model it starts from.
        selector: "budgeted", "energy", "vbmf", "ratio" or "fixed".
        options: arguments of the selector, such as `{keep: [stem*]}`.
        calibration_steps: training batches on which the layers' inputs and the
            network's sensitivity are measured; 0 takes factors that know only the
            weights.
        asymmetric: factors of a layer make up for what the layers before it have
            lost.

    Raises:
        OptionError: an argument out of range, or a name that does not exist.

    Example:
        >>> Factorize(target=Budget(macs=0.4), selector="ratio").target.describe()
        'macs <= 40.0%'
    """

    name = "factorize"
    needs = ("teacher",)
    gives = ("compressed",)

    target: Budget = dataclasses.field(default_factory=lambda: Budget(macs=0.5))
    selector: str = "budgeted"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    calibration_steps: int = 16
    asymmetric: bool = True

    def __post_init__(self) -> None:
        choose(self.selector, SELECTORS, "rank selector")
        check_number("calibration_steps", self.calibration_steps)

    def check(self, data: Dataset) -> None:
        make_selector(self.selector, self.options, self.target)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.musco import factorize_once
        from tfcompress.tasks import task_of

        data, task = context.data, task_of(context.data)
        teacher = load_model(inputs["teacher"], data)
        model = load_model(inputs.get("student", inputs["teacher"]), data)
        size = min(_BATCH_SIZE, data.sizes["train"])
        train = data.batches(
            "train", size, shuffle_seed=context.seed, drop_remainder=True
        )
        small, plan = factorize_once(
            model,
            train,
            target=self.target,
            selector=make_selector(self.selector, self.options, self.target),
            task=task.loop_task(None),
            calibration_steps=self.calibration_steps,
            asymmetric=self.asymmetric,
            cache=context.folder / "measured",
            seed=context.seed,
        )
        if not plan.choices():
            raise NothingToCompressError(
                f"Nothing in model '{model.name}' can be made smaller by "
                f"'{self.selector}': choose a smaller budget or another rank selector."
            )
        path = context.folder / "compressed.keras"
        small.save(path)
        (context.folder / "plan.json").write_text(json.dumps(plan.to_dict(), indent=1))
        validation = data.batches("validation", 256)
        before = model_figures(model, data)
        before |= task.figures(model, validation, teacher)
        after = model_figures(small, data)
        after |= task.figures(small, validation, teacher)
        entry = {"plan": plan.to_dict(), "accepted": True}
        figures = {
            "before": before,
            "after": after,
            "target": self.target.limits(),
            "target_met": plan.met,
            "layers": final_layers(small, data.image_shape, [entry]),
        }
        return StageResult({"compressed": path}, figures)
