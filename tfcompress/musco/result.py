"""What a compression gives back: the model, and every round with its figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfcompress.ranks import Budget, Plan
from tfcompress.spec import Cost

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of the loop.

    Attributes:
        budget: where this round was to bring the model, relative to the original;
            None where ranks were not chosen for a budget.
        plan: what was done to every layer.
        factorized: validation figures right after factorization.
        recalibrated: after batch-norm recalibration.
        fine_tuned: after fine-tuning; with batch norm recalibrated once more where
            that is better.
        kept: "fine_tuned", or "recalibrated" where fine-tuning made it worse.
        learning_rate: peak of the fine-tuning's schedule.
        accepted: whether the result was kept.
        reason: why it was rolled back, or None.
        sensitivity: divergence of the network's outputs when a tenth of the squared
            size of a layer's outputs is lost, by layer; empty where not measured.
        history: curves of the fine-tuning by name, a value for each epoch.

    Example:
        >>> first = result.history[0]                                # doctest: +SKIP
        >>> first.accepted, first.kept, first.result["accuracy"]     # doctest: +SKIP
        (True, 'fine_tuned', 0.97)
    """

    budget: Budget | None
    plan: Plan
    factorized: Figures
    recalibrated: Figures
    fine_tuned: Figures
    kept: str
    learning_rate: float
    accepted: bool
    reason: str | None = None
    sensitivity: dict[str, float] = dataclasses.field(default_factory=dict)
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def result(self) -> Figures:
        """Validation figures of what the round gave."""
        return self.fine_tuned if self.kept == "fine_tuned" else self.recalibrated

    def to_dict(self) -> dict[str, Any]:
        """The round as plain data, its plan in full."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        budget = None if self.budget is None else self.budget.limits()
        return data | {"budget": budget, "plan": self.plan.to_dict()}


@dataclasses.dataclass(frozen=True)
class Compression:
    """What `compress` and `musco` return.

    Attributes:
        model: the smallest model that was accepted; a copy of the original where
            none was.
        target_met: whether it is within the target; True where there was none.
        history: every round, those rolled back included.
        original: validation figures of the original model.
        cost: cost of `model`.
        original_cost: cost of the original model.
        monitor: name of the figure that decides, such as "accuracy".

    Example:
        >>> result = compress(model, (x, y), (xv, yv),               # doctest: +SKIP
        ...                   target=Budget(macs=0.4), epochs=5)
        >>> print(result.summary())                                  # doctest: +SKIP
        params: 78,042 -> 28,906 (2.70x smaller)
        ...
    """

    model: keras.Model
    target_met: bool
    history: tuple[Round, ...]
    original: Figures
    cost: Cost
    original_cost: Cost
    monitor: str = "accuracy"

    @property
    def plan(self) -> Plan | None:
        """The plan of the last accepted round, or None."""
        accepted = [r.plan for r in self.history if r.accepted]
        return accepted[-1] if accepted else None

    @property
    def final(self) -> Figures:
        """Validation figures of `model`."""
        kept = [r.result for r in self.history if r.accepted]
        return kept[-1] if kept else self.original

    def summary(self) -> str:
        """A few lines of text: cost, validation figure and rounds."""
        lines = []
        for name in ("params", "macs"):
            old, new = getattr(self.original_cost, name), getattr(self.cost, name)
            lines.append(
                f"{name}: {old:,} -> {new:,} ({old / max(new, 1):.2f}x smaller)"
            )
        before, after = self.original[self.monitor], self.final[self.monitor]
        lines.append(f"validation {self.monitor}: {before:.4f} -> {after:.4f}")
        accepted = sum(r.accepted for r in self.history)
        rolled_back = len(self.history) - accepted
        lines.append(f"rounds: {accepted} accepted, {rolled_back} rolled back")
        lines.append("target met" if self.target_met else "target NOT met")
        return "\n".join(lines)
