"""Compress: rounds of factorization and fine-tuning by distillation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import OptionError, TfcompressError
from tfcompress.metric import CLASSIFICATION
from tfcompress.ranks import SELECTORS
from tfcompress.ranks.plan import Budget
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
    check_number,
    schedule,
)

if TYPE_CHECKING:
    from tfcompress.data import Dataset
    from tfcompress.ranks import RankSelector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compress(DistillationTraining):
    """Factorizes the student (or the teacher) and fine-tunes it, in rounds.

    Args:
        target: what the result may cost, relative to the model it starts from.
        max_drop: accepted loss of the metric on validation, absolute: of the accuracy,
            or of mAP, mean IoU or mean absolute error.
        rounds: in how many rounds to go to the target.
        retries: how many rolled back rounds are tried again with half the step.
        selector: "budgeted", "energy", "vbmf", "ratio" or "fixed".
        options: arguments of the selector, such as `{keep: [stem*]}`.
        calibration_steps: training batches on which the layers' inputs and the
            network's sensitivity are measured; 0 takes factors that know only the
            weights.
        asymmetric: factors of a layer make up for what the layers before it have
            lost.
        teach_by: who is matched when fine-tuning: "teacher", or "original", the
            model before factorization.
        steps, epochs: of fine-tuning in each round, with both the longer; neither:
            1000 steps.
        views: what teacher and student see.
        batch_size: images per step.
        learning_rate: its peak.
        weight_decay: decoupled, as in Beyer et al. 2021, table 4.
        temperature: of both distributions, above 0.
        label_weight: weight of the cross-entropy with the labels; 0 uses none.

    Raises:
        OptionError: an argument out of range, or a name that does not exist.

    Example:
        >>> stage = Compress(selector="energy", options={"keep": ["stem*"]}, epochs=5)
        >>> stage.make_selector().keep
        ('stem*',)
    """

    name = "compress"
    needs = ("teacher",)
    gives = ("compressed",)

    target: Budget = dataclasses.field(default_factory=lambda: Budget(macs=0.5))
    max_drop: float = 0.01
    rounds: int = 2
    retries: int = 1
    selector: str = "budgeted"
    calibration_steps: int = 16
    asymmetric: bool = True
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    teach_by: str = "teacher"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.selector, SELECTORS, "rank selector")
        choose(self.teach_by, {"teacher": 1, "original": 1}, "teach_by")
        check_number("rounds", self.rounds, positive=True)
        check_number("retries", self.retries)
        check_number("calibration_steps", self.calibration_steps)
        check_number("max_drop", self.max_drop)

    def make_selector(self) -> RankSelector:
        """The rank selector with its options.

        Raises:
            TfcompressError: an option the selector does not take.
        """
        return make_selector(self.selector, self.options, self.target)

    def check(self, data: Dataset) -> None:
        self.make_selector()
        check_for_classifiers(self, data, "temperature", "label_weight")
        if data.task != CLASSIFICATION and not self.views.consistent:
            raise OptionError(
                f"compress: in the rounds of {data.task} both networks see the same: "
                f"views.mode must be consistent or function_matching. Received: "
                f"{self.views.mode}"
            )

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.musco import compress
        from tfcompress.tasks import task_of

        data, task = context.data, task_of(context.data)
        teacher = load_model(inputs["teacher"], data)
        start = inputs.get("student", inputs["teacher"])
        model = load_model(start, data)
        validation = data.batches("validation", 256)
        train, epochs, steps = schedule(self, context, default_steps=1000)
        views = self.views.for_data(data.mirror_symmetric)
        judged = task.loop_task(views)
        result = compress(
            model,
            train,
            validation,
            target=self.target,
            max_drop=self.max_drop,
            selector=self.make_selector(),
            rounds=self.rounds,
            retries=self.retries,
            teacher=teacher if self.teach_by == "teacher" else None,
            task=judged,
            # A task has a view of its own.
            views=views if judged is None else None,
            temperature=self.temperature,
            label_weight=self.label_weight,
            epochs=epochs,
            steps_per_epoch=steps,
            calibration_steps=self.calibration_steps,
            asymmetric=self.asymmetric,
            cache=context.folder / "measured",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=context.seed,
            progress=context.progress,
        )
        path = context.folder / "compressed.keras"
        result.model.save(path)
        rounds = [r.to_dict() for r in result.history]
        (context.folder / "rounds.json").write_text(json.dumps(rounds, indent=1))
        before = model_figures(model, data)
        before |= task.figures(model, validation, teacher)
        after = model_figures(result.model, data)
        after |= task.figures(result.model, validation, teacher)
        figures = {
            "before": before,
            "after": after,
            "target": self.target.limits(),
            "target_met": result.target_met,
            "rounds": [_brief(r) for r in rounds],
            "layers": final_layers(result.model, data.image_shape, rounds),
        }
        return StageResult({"compressed": path}, figures)


def make_selector(
    name: str, options: Mapping[str, Any], target: Budget | None
) -> RankSelector:
    """A rank selector by name.

    A selector with a strength of its own (VBMF's weakening) follows the budget where
    there is one and the options do not set the strength.

    Raises:
        TfcompressError: no such selector, or an option it does not take.
    """
    from tfcompress import ranks
    from tfcompress.errors import nearest

    cls = getattr(ranks, choose(name, SELECTORS, "rank selector"))
    known = {field.name for field in dataclasses.fields(cls)}
    for key in options:
        if key not in known:
            raise TfcompressError(
                f"Rank selector '{name}' has no option '{key}'; {nearest(key, known)}"
            )
    options = dict(options)
    if name == "vbmf" and target is not None:
        options.setdefault("weakening", None)
    try:
        return cls(**options)
    except TypeError as error:
        raise TfcompressError(f"Rank selector '{name}': {error}") from error


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    plan = entry["plan"]
    return {k: v for k, v in entry.items() if k != "plan"} | {
        "after": plan["after"],
        "dense": plan["dense"],
        "selector": plan["selector"],
        "ranks": {row["name"]: row["ranks"] for row in plan["layers"] if row["ranks"]},
    }


def final_layers(
    model: Any, input_shape: tuple[int, ...], rounds: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every layer of the result: its factorization, or why it was left alone."""
    from tfcompress.cost import layer_specs
    from tfcompress.layers import FactorizedLayer

    accepted = [entry["plan"] for entry in rounds if entry["accepted"]]
    tried = accepted or [entry["plan"] for entry in rounds]
    rows = tried[-1]["layers"] if tried else []
    reasons = {row["name"]: row["reason"] for row in rows}
    table = []
    for spec in layer_specs(model, input_shape):
        factorized = isinstance(spec.layer, FactorizedLayer)
        reason = reasons.get(spec.name) or "the round that changed it was rolled back"
        table.append(
            {
                "name": spec.name,
                "kind": spec.kind,
                "ranks": list(spec.layer.ranks) if factorized else None,
                "reason": None if factorized else reason,
                "dense": spec.dense._asdict(),
                "cost": spec.cost._asdict(),
            }
        )
    return table
