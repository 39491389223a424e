"""Budgeted: one allocator for the whole network, over all layer types and ranks."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfcompress.errors import RankError
from tfcompress.layers import FactorizedLayer, kernel_of, kernel_shape_of, registry
from tfcompress.ranks.base import (
    RankSelector,
    Scores,
    current_ranks,
    make_plan,
    shrinks,
)
from tfcompress.ranks.budget import Budget
from tfcompress.ranks.knapsack import choose_options
from tfcompress.ranks.options import (
    Option,
    asked_for,
    thinned,
    types_with,
    undominated,
)
from tfcompress.ranks.plan import Decision, Plan
from tfcompress.ranks.timing import Table, Timing, no_table
from tfcompress.spec import LayerSpec

# Ranks tried for each mode of a layer: every multiple of the grid for narrow layers,
# evenly spaced ones for wide layers.
_MOST_RANKS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budgeted(RankSelector):
    """The layer types and ranks that lose least of the network within a budget.

    Every layer may stay as it is or take any type at ranks on a grid. What a choice
    loses is its error on the calibration data times the measured sensitivity of the
    network to errors of that layer; the choice of all layers together is a
    multiple-choice knapsack. The budget is met, not overshot by rounding.

    Without scores (of `collect_moments` and `measure_sensitivity`) the error is that of
    the kernel, and layers count in proportion to their share of the network's MACs.

    Args:
        ranks: pattern (`fnmatch`) -> ranks: layers whose ranks are given; an integer
            stands for all ranks of the layer, a tuple chooses the types that have as
            many. The last pattern that matches wins.
        types: as in `RankSelector`; by default every type is considered but CP, whose
            error at many ranks takes long to find: ask for it by its name.
        latency: measured times of layers, for budgets of latency: a
            `tfcompress.deploy.LatencyTable`. Choices that are no faster than the layer
            as it is are left out.
        rest_ms: the part of the model's time that no layer that can be factorized
            accounts for; see `LatencyTable.check`.
        keep, round_to, min_rank: as in `RankSelector`.

    Raises:
        RankError: no budget, or ranks that a layer cannot have.
        BudgetError: a budget of latency without a table.

    Example:
        >>> Budgeted(keep=("stem*",), ranks={"block2/conv": 32}).keep
        ('stem*',)
    """

    ranks: Mapping[str, int | tuple[int, ...]] = dataclasses.field(default_factory=dict)
    types: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"*": "cheapest"}
    )
    latency: Table | None = dataclasses.field(default=None, repr=False, compare=False)
    rest_ms: float = 0.0

    needs_sensitivity: ClassVar[bool] = True
    plans_latency: ClassVar[bool] = True

    def patterns(self) -> tuple[str, ...]:
        return (*super().patterns(), *self.ranks)

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        if budget is None:
            raise RankError("Budgeted needs a budget, such as Budget(macs=0.5).")
        scores, limits = scores or {}, budget.limits()
        if "latency" in limits and self.latency is None:
            raise no_table(budget)
        options = {
            spec.name: self.options(spec, scores.get(spec.name, {}), tuple(limits))
            for spec in specs
            if self._is_open(spec)
        }
        timing = None
        if "latency" in limits:
            timing, options = self._timed(specs, options, tuple(limits))
        chosen = choose_options(
            [np.array([o.value for o in found]) for found in options.values()],
            [np.array([o.costs(tuple(limits)) for o in f]) for f in options.values()],
            self._left(specs, options, timing, limits),
        )
        found = {
            name: options[name][index]
            for name, index in zip(options, chosen, strict=True)
        }
        plan = make_plan(
            self,
            specs,
            budget,
            lambda spec, name: _decision(found[spec.name], name, options[spec.name]),
        )
        if timing is None:
            return plan
        after = {name: option.milliseconds for name, option in found.items()}
        return dataclasses.replace(plan, latency=timing.estimate(after))

    def _left(
        self,
        specs: Sequence[LayerSpec],
        options: Mapping[str, list[Option]],
        timing: Timing | None,
        limits: Mapping[str, float],
    ) -> np.ndarray:
        """What the layers that are open may take: the rest is spent already."""
        left = []
        for name, share in limits.items():
            if name == "latency":
                whole = timing.estimate({}).dense_ms
                closed = [ms for n, ms in timing.now.items() if n not in options]
                left.append(share * whole - timing.rest_ms - sum(closed))
            else:
                whole = sum(getattr(spec.dense, name) for spec in specs)
                closed = [getattr(s.cost, name) for s in specs if s.name not in options]
                left.append(share * whole - sum(closed))
        return np.array(left, np.float64)

    def _timed(
        self,
        specs: Sequence[LayerSpec],
        options: Mapping[str, list[Option]],
        resources: tuple[str, ...],
    ) -> tuple[Timing, dict[str, list[Option]]]:
        """Options with their measured times; those that are no faster left out."""
        by_name = {spec.name: spec for spec in specs}
        few = {name: thinned(found) for name, found in options.items()}
        requests = [
            (by_name[name], option.layer_type, option.ranks)
            for name, found in few.items()
            for option in found
            if option.layer_type is not None and by_name[name].cost.macs
        ]
        # All at once: times of one session compare best.
        timing = Timing.of_model(specs, self.latency, self.rest_ms, requests)
        timed = {}
        for name, found in few.items():
            kept = found
            # What has no MACs counts for no time.
            if name in timing.now:
                known = [self._with_time(o, by_name[name], timing.now) for o in found]
                faster = [o for o in known if o.milliseconds < timing.now[name]]
                as_it_is = [o for o in known if o.layer_type is None]
                # Ranks asked for by name are taken, however slow: then there is no
                # choice to leave the layer as it is.
                kept = [*as_it_is, *faster] or known
            timed[name] = undominated(kept, resources)
        return timing, timed

    def _with_time(
        self, option: Option, spec: LayerSpec, now: Mapping[str, float]
    ) -> Option:
        if option.layer_type is None:
            return option._replace(milliseconds=now[spec.name])
        time = self.latency.of(spec, option.layer_type, option.ranks)
        return option._replace(milliseconds=time)

    def _is_open(self, spec: LayerSpec) -> bool:
        kept = any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in self.keep)
        return not kept and spec.reason is None and bool(self.candidates(spec))

    def options(
        self, spec: LayerSpec, score: Mapping[str, Any], resources: tuple[str, ...]
    ) -> list[Option]:
        """Everything a layer may become, dominated choices left out.

        Args:
            spec: a layer that can be factorized.
            score: its moments and sensitivity, where they are known.
            resources: the fields of `Cost` that count.
        """
        asked = self._asked(spec)
        as_it_is = Option(None, None, spec.cost, 0.0, 0.0)
        found = [as_it_is] if asked is None else []
        moments, curve = score.get("moments"), score.get("sensitivity")
        weight = spec.dense.macs or spec.dense.params
        for name in types_with(spec, self.candidates(spec), asked):
            cls = registry.get(name)
            if asked is None:
                grid = self._grid(spec, name)
            else:
                grid = [asked_for(cls, spec, asked)]
            costs = [cls.cost(spec, ranks) for ranks in grid]
            smaller = [
                (ranks, cost)
                for ranks, cost in zip(grid, costs, strict=True)
                if shrinks(spec, cost)
            ]
            if not smaller:
                continue
            errors = _errors(spec, cls, [ranks for ranks, _ in smaller], moments)
            values = curve(errors) if curve is not None else errors * weight
            found += [
                Option(name, ranks, cost, float(error), float(value))
                for (ranks, cost), error, value in zip(
                    smaller, errors, values, strict=True
                )
            ]
        if not found:
            found = [as_it_is]
        # What counts for time is not known yet: fewer MACs are a hint.
        hinted = ["macs" if name == "latency" else name for name in resources]
        return undominated(found, tuple(hinted))

    def _asked(self, spec: LayerSpec) -> int | tuple[int, ...] | None:
        matching = [p for p in self.ranks if fnmatch.fnmatchcase(spec.name, p)]
        return self.ranks[matching[-1]] if matching else None

    def _grid(self, spec: LayerSpec, name: str) -> list[tuple[int, ...]]:
        largest = registry.get(name).max_ranks(kernel_shape_of(spec.layer))
        now = current_ranks(spec, name)
        axes = []
        for most, limit in zip(largest, now, strict=True):
            step = self.round_to or (8 if most >= 64 else 4 if most >= 16 else 1)
            step *= -(-most // (step * _MOST_RANKS))
            below = [r for r in range(step, limit, step) if r >= self.min_rank]
            # A mode may also stay whole, or fall below one step of the grid.
            small = [r for r in (step // 2, step // 4) if r >= max(self.min_rank, 2)]
            axes.append(sorted({*small, *below, limit}))
        return list(itertools.product(*axes))


def _errors(
    spec: LayerSpec, cls: type, candidates: list[tuple[int, ...]], moments: Any
) -> np.ndarray:
    layer = spec.layer
    metric = cls.metric(layer, moments)
    if isinstance(layer, FactorizedLayer):
        return layer.factor_errors(candidates, metric)
    return cls.errors(kernel_of(layer), candidates, metric)


def _decision(option: Option, name: str, options: Sequence[Option]) -> Decision:
    if option.layer_type is None:
        alone = len(options) == 1
        reason = "no ranks make it smaller" if alone else "worth more as it is"
        return Decision(None, None, reason)
    if option.layer_type != name:
        return Decision(None, None, f"{option.layer_type} is better")
    notes = {"error": option.error, "loss": option.value}
    return Decision(name, option.ranks, notes=notes)
