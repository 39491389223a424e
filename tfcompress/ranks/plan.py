"""Budgets and plans: what compression may cost, and what is done to which layer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tfcompress.errors import BudgetError
from tfcompress.spec import ZERO, Cost

FIELDS = Cost._fields


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the compressed model may cost, as fractions of the original model.

    Args:
        macs: multiply-accumulates, in (0, 1]; None for no limit.
        params: number of weights, in (0, 1]; None for no limit.
        bytes: bytes of the weights, in (0, 1]; None for no limit.

    Raises:
        BudgetError: a fraction outside (0, 1], or no limit at all.

    Example:
        >>> Budget(macs=0.4).describe()
        'macs <= 40.0%'
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if not limits:
            raise BudgetError(
                "A budget needs at least one limit, such as Budget(macs=0.4). "
                "Received: none"
            )
        for name, value in limits.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and 0.0 < value <= 1.0):
                raise BudgetError(
                    f"Budget {name} must be a fraction of the original in (0, 1]. "
                    f"Received: {name}={value}"
                )

    def limits(self) -> dict[str, float]:
        """The limits that are set, by field name."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def met(self, cost: Cost, dense: Cost) -> bool:
        """Whether `cost` is within every limit relative to `dense`."""
        return all(
            getattr(cost, name) <= limit * getattr(dense, name)
            for name, limit in self.limits().items()
        )

    def toward(self, cost: Cost, dense: Cost, share: float) -> Budget:
        """The budget on the way from `cost` to this one, in equal ratios.

        Args:
            cost: where the model is now.
            dense: the original model's cost.
            share: 0 stays where the model is, 1 is this budget.
        """
        stages = {}
        for name, limit in self.limits().items():
            whole = max(getattr(dense, name), 1)
            now = min(max(getattr(cost, name) / whole, limit), 1.0)
            stages[name] = now ** (1.0 - share) * limit**share
        return Budget(**stages)

    def describe(self) -> str:
        """One line, such as "macs <= 40.0%"."""
        return ", ".join(f"{k} <= {100 * v:.1f}%" for k, v in self.limits().items())


class Decision(NamedTuple):
    """What a selector says of one layer: a type and ranks, or the reason for none."""

    layer_type: str | None
    ranks: tuple[int, ...] | None
    reason: str | None = None
    notes: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One row of a plan.

    Attributes:
        name: path of the layer.
        kind: class name of the layer as it is.
        layer_type: factorized type it has after the plan, or None.
        ranks: ranks after the plan, or None.
        reason: why the layer is left alone, or None.
        changed: whether the plan changes the layer.
        dense: cost of the layer it was or stands for.
        before: cost now.
        after: cost after the plan.
        notes: what the selector found, kept for later rounds.
    """

    name: str
    kind: str
    layer_type: str | None
    ranks: tuple[int, ...] | None
    reason: str | None
    changed: bool
    dense: Cost
    before: Cost
    after: Cost
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _total(costs: Sequence[Cost]) -> Cost:
    total = ZERO
    for cost in costs:
        total = total.plus(cost)
    return total


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every layer of a model exactly once: factorized with ranks, or why not.

    Attributes:
        rows: one `LayerPlan` for each layer, in the model's order.
        selector: name of the rank selector that made it.
        budget: the budget it was made for, or None.
    """

    rows: tuple[LayerPlan, ...]
    selector: str
    budget: Budget | None = None

    @property
    def dense(self) -> Cost:
        """Cost of the original model."""
        return _total([row.dense for row in self.rows])

    @property
    def before(self) -> Cost:
        """Cost of the model as it is."""
        return _total([row.before for row in self.rows])

    @property
    def after(self) -> Cost:
        """Cost of the model after the plan."""
        return _total([row.after for row in self.rows])

    @property
    def met(self) -> bool:
        """Whether the plan is within its budget; True without one."""
        return self.budget is None or self.budget.met(self.after, self.dense)

    def choices(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The layers that change, in the form `surgery.factorize` takes."""
        return {r.name: (r.layer_type, r.ranks) for r in self.rows if r.changed}

    def scores(self) -> dict[str, dict[str, Any]]:
        """Notes by layer, to hand to the selector in a later round."""
        return {row.name: dict(row.notes) for row in self.rows if row.notes}

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "selector": self.selector,
            "budget": None if self.budget is None else self.budget.limits(),
            "met": self.met,
            "dense": self.dense._asdict(),
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "layers": [
                {
                    **dataclasses.asdict(row),
                    "ranks": None if row.ranks is None else list(row.ranks),
                    "dense": row.dense._asdict(),
                    "before": row.before._asdict(),
                    "after": row.after._asdict(),
                    "notes": dict(row.notes),
                }
                for row in self.rows
            ],
        }

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote."""
        data = json.loads(text)
        rows = []
        for row in data["layers"]:
            costs = {key: Cost(**row[key]) for key in ("dense", "before", "after")}
            ranks = None if row["ranks"] is None else tuple(row["ranks"])
            rows.append(LayerPlan(**{**row, **costs, "ranks": ranks}))
        budget = None if data["budget"] is None else Budget(**data["budget"])
        return cls(rows=tuple(rows), selector=data["selector"], budget=budget)

    def table(self, *, every: bool = False) -> str:
        """The plan as a plain text table.

        Args:
            every: also the layers without weights.
        """
        shown = [row for row in self.rows if every or row.dense.params]
        lines = [("layer", "kind", "becomes", "ranks", "params", "MACs")]
        for row in shown:
            ranks = "" if row.ranks is None else "x".join(map(str, row.ranks))
            becomes = row.layer_type or row.reason or ""
            lines.append((row.name, row.kind, becomes, ranks, *_changes(row)))
        widths = [max(len(line[i]) for line in lines) for i in range(6)]
        text = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
            for line in lines
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        hidden = len(self.rows) - len(shown)
        if hidden:
            text.append(f"(and {hidden} layers without weights)")
        text.append(self.summary())
        return "\n".join(line.rstrip() for line in text)

    def summary(self) -> str:
        """One line: totals before and after, and whether the budget is met."""
        parts = []
        for name in ("params", "macs"):
            old, new = getattr(self.dense, name), getattr(self.after, name)
            parts.append(f"{name}: {old:,} -> {new:,} ({100 * new / max(old, 1):.1f}%)")
        if self.budget is not None:
            verdict = "met" if self.met else "NOT met"
            parts.append(f"budget {self.budget.describe()}: {verdict}")
        return "; ".join(parts)


def _changes(row: LayerPlan) -> tuple[str, str]:
    def change(name: str) -> str:
        old, new = getattr(row.dense, name), getattr(row.after, name)
        return f"{old:,}" if old == new else f"{old:,} -> {new:,}"

    return change("params"), change("macs")
