"""Plans: what compression does to which layer, and what the model then costs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tfcompress.ranks.budget import Budget, no_latency, within
from tfcompress.spec import ZERO, Cost


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

    Example:
        >>> row = Ratio(rate=4.0).select(layer_specs(model)).rows[-1]
        >>> row.name, row.layer_type, row.ranks, row.before.params, row.after.params
        ('head', 'FactorizedDense', (2,), 1450, 318)
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
class LatencyEstimate:
    """Time of one forward pass of one sample, from a table of measured layers.

    Attributes:
        dense_ms: of the original model.
        before_ms: of the model as it is.
        after_ms: of the model after the plan.
        rest_ms: the part of each of these that no layer of the plan accounts for.
        num_threads: CPU threads.

    Example:
        >>> LatencyEstimate(3.1, 3.1, 1.24, 0.2, num_threads=1).describe()
        'latency: 3.1 -> 1.24 ms (40.0%, 1 thread)'
    """

    dense_ms: float
    before_ms: float
    after_ms: float
    rest_ms: float
    num_threads: int

    @property
    def ratio(self) -> float:
        """Time after the plan as a fraction of the original's."""
        return self.after_ms / self.dense_ms

    def describe(self) -> str:
        """One line, such as "latency: 3.10 -> 1.24 ms (40.0%, 1 thread)"."""
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        return (
            f"latency: {self.dense_ms:.3g} -> {self.after_ms:.3g} ms "
            f"({100 * self.ratio:.1f}%, {threads})"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every layer of a model exactly once: factorized with ranks, or why not.

    Attributes:
        rows: one `LayerPlan` for each layer, in the model's order.
        selector: name of the rank selector that made it.
        budget: the budget it was made for, or None.
        latency: what the selector found of the model's time, or None.

    Example:
        >>> plan = Ratio(rate=4.0).select(layer_specs(model))
        >>> plan.choices()["head"]
        ('FactorizedDense', (2,))
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    rows: tuple[LayerPlan, ...]
    selector: str
    budget: Budget | None = None
    latency: LatencyEstimate | None = None

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
        """Whether the plan is within its budget; True without one.

        Raises:
            BudgetError: the budget limits latency and the plan has no estimate of it.
        """
        if self.budget is None:
            return True
        if self.budget.latency is not None:
            if self.latency is None:
                raise no_latency(self.selector, self.budget)
            if not within(self.latency.ratio, self.budget.latency):
                return False
        return self.budget.met(self.after, self.dense)

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
            "latency": self.latency and dataclasses.asdict(self.latency),
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
        # Plans written before there were estimates lack the key.
        latency = data.get("latency") and LatencyEstimate(**data["latency"])
        return cls(tuple(rows), data["selector"], budget=budget, latency=latency)

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
        if self.latency is not None:
            parts.append(self.latency.describe())
        if self.budget is not None:
            verdict = "met" if self.met else "NOT met"
            parts.append(f"budget {self.budget.describe()}: {verdict}")
        return "; ".join(parts)


def _changes(row: LayerPlan) -> tuple[str, str]:
    def change(name: str) -> str:
        old, new = getattr(row.dense, name), getattr(row.after, name)
        return f"{old:,}" if old == new else f"{old:,} -> {new:,}"

    return change("params"), change("macs")
