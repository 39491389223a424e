"""The rank selector interface, and the parts that all selectors share."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfcompress.errors import RankError, nearest
from tfcompress.layers import FactorizedLayer, kernel_of, kernel_shape_of, registry
from tfcompress.ranks.budget import Budget, no_latency
from tfcompress.ranks.plan import Decision, LayerPlan, Plan
from tfcompress.spec import Cost, LayerSpec

Scores = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankSelector:
    """Base of rank selectors: layer specs and a budget in, a `Plan` out.

    Args:
        keep: patterns (`fnmatch`) of layer paths to leave as they are.
        types: pattern -> layer type name; the last pattern that matches wins.
            "cheapest" takes the type with the fewest MACs, CP apart, which must be
            asked for by its name. Without a match: Tucker-2 for k×k convolutions, a
            pair of factors for 1×1 ones (MUSCO's rule).
        round_to: ranks are rounded to multiples of this; None takes 8 where the
            largest rank is at least 64, 4 from 16, else 1. Hardware likes multiples.
        min_rank: no rank falls below this.

    Raises:
        RankError: `round_to` or `min_rank` below 1, or no such layer type.

    Example:
        >>> RankSelector(keep=("stem*",), round_to=8).rounded(21, 64)
        16
    """

    keep: tuple[str, ...] = ()
    types: Mapping[str, str] = dataclasses.field(default_factory=dict)
    round_to: int | None = None
    min_rank: int = 1

    # Whether `select` reads the sensitivity of the layers from its scores.
    needs_sensitivity: ClassVar[bool] = False
    # Whether `select` can keep a limit of latency.
    plans_latency: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))
        if self.round_to is not None and self.round_to < 1:
            raise RankError(f"round_to must be positive. Received: {self.round_to}")
        if self.min_rank < 1:
            raise RankError(f"min_rank must be positive. Received: {self.min_rank}")
        for name in self.types.values():
            if name != "cheapest" and name not in registry.names():
                hint = nearest(name, (*registry.names(), "cheapest"))
                raise RankError(f"No layer type '{name}'; {hint}")

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        """Chooses a layer type and ranks for every layer, or says why not.

        Args:
            specs: the layers, from `tfcompress.cost.layer_specs`.
            budget: what the model may cost; None where the selector has its own
                strength.
            scores: what earlier rounds found, by layer (`Plan.scores()`).

        Returns:
            A plan with every layer exactly once. It may miss the budget
            (`Plan.met`) where no choice of ranks can meet it.
        """
        raise NotImplementedError

    def patterns(self) -> tuple[str, ...]:
        """All patterns of layer paths, for the check that each one matches."""
        return (*self.keep, *self.types)

    def rounded(self, rank: float, largest: int, *, up: bool = False) -> int:
        """A usable rank: on the grid, at least `min_rank`, at most `largest`.

        A rank below one step of the grid is put on a grid half as wide, and so on: a
        rank of 7 becomes 4, not 1.

        Args:
            rank: the rank wanted.
            largest: the largest useful rank.
            up: round up instead of down.
        """
        grid = self.round_to
        if grid is None:
            grid = 8 if largest >= 64 else 4 if largest >= 16 else 1
        while grid > max(rank, 1):
            grid //= 2
        whole = math.ceil(rank / grid) if up else int(rank / grid)
        return max(min(max(whole * grid, self.min_rank), largest), 1)

    def candidates(self, spec: LayerSpec) -> tuple[str, ...]:
        """Layer types to consider for a layer: one, or all but CP for "cheapest"."""
        chosen = None
        for pattern, name in self.types.items():
            if fnmatch.fnmatchcase(spec.name, pattern):
                chosen = name
        if isinstance(spec.layer, FactorizedLayer):
            return spec.options
        if chosen == "cheapest":
            # What has no spectrum is not judged by cost alone: it is asked for by name.
            return tuple(n for n in spec.options if registry.get(n).spectral)
        if chosen is None:
            tucker = [name for name in spec.options if name.startswith("Tucker2")]
            return tuple(tucker) or spec.options[:1]
        return (chosen,) if chosen in spec.options else ()


def without_spectrum(selector: RankSelector, name: str) -> Decision:
    """What a selector that reads spectra decides for a type that has none."""
    kind = type(selector).__name__
    return Decision(None, None, f"{name} has no spectrum for {kind} to choose ranks by")


class Spectra:
    """Singular values of layers by type, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[np.ndarray, ...]] = {}

    def of(self, spec: LayerSpec, type_name: str) -> tuple[np.ndarray, ...]:
        """Singular values for each rank of the type, largest first."""
        key = (spec.name, type_name)
        if key not in self._known:
            if isinstance(spec.layer, FactorizedLayer):
                self._known[key] = spec.layer.factor_spectra()
            else:
                cls = registry.get(type_name)
                self._known[key] = cls.spectra(kernel_of(spec.layer))
        return self._known[key]


def current_ranks(spec: LayerSpec, type_name: str) -> tuple[int, ...]:
    """Ranks a layer has: its own if factorized, else the largest useful ones."""
    if isinstance(spec.layer, FactorizedLayer):
        return spec.layer.ranks
    return registry.get(type_name).max_ranks(kernel_shape_of(spec.layer))


def make_plan(
    selector: RankSelector,
    specs: Sequence[LayerSpec],
    budget: Budget | None,
    decide: Callable[[LayerSpec, str], Decision],
) -> Plan:
    """A plan from one decision per layer and type, with the guards applied.

    A layer is replaced only if it becomes smaller (`shrinks`); of several types the
    one with the fewest MACs is taken. A lookup, which has no MACs, is left alone where
    the budget does not ask for fewer weights.

    Args:
        selector: who decides.
        specs: the layers.
        budget: recorded in the plan.
        decide: gives ranks for a layer and a type, or a reason.

    Raises:
        RankError: a pattern matches no layer.
        BudgetError: a limit of latency for a selector that cannot plan for it.
    """
    if budget is not None and budget.latency is not None and not selector.plans_latency:
        raise no_latency(type(selector).__name__, budget)
    _check_patterns(selector, specs)
    rows = tuple(_row(selector, spec, budget, decide) for spec in specs)
    return Plan(rows=rows, selector=type(selector).__name__, budget=budget)


def shrinks(spec: LayerSpec, after: Cost) -> bool:
    """Whether a layer becomes smaller: its params fall, and its MACs.

    A stock layer without MACs, such as an embedding, is asked for its params alone.
    """
    fewer_macs = after.macs < spec.cost.macs or spec.dense.macs == 0
    return after.params < spec.cost.params and fewer_macs


def _of_weights(budget: Budget) -> bool:
    return budget.params is not None or budget.bytes is not None


def _check_patterns(selector: RankSelector, specs: Sequence[LayerSpec]) -> None:
    names = [spec.name for spec in specs]
    for pattern in selector.patterns():
        if not fnmatch.filter(names, pattern):
            raise RankError(f"No layer matches '{pattern}'; {nearest(pattern, names)}")


def _row(
    selector: RankSelector,
    spec: LayerSpec,
    budget: Budget | None,
    decide: Callable[[LayerSpec, str], Decision],
) -> LayerPlan:
    if any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in selector.keep):
        return _unchanged(spec, "kept as asked")
    if spec.reason is not None:
        return _unchanged(spec, spec.reason)
    if spec.cost.macs == 0 and budget is not None and not _of_weights(budget):
        return _unchanged(spec, "it has no MACs to save")
    candidates = selector.candidates(spec)
    if not candidates:
        return _unchanged(spec, "the layer type asked for cannot replace it")
    best: LayerPlan | None = None
    refusal = _unchanged(spec, "no type makes it smaller")
    for name in candidates:
        row = _candidate(spec, name, decide(spec, name))
        if not row.changed:
            refusal = row
        elif best is None or row.after.macs < best.after.macs:
            best = row
    return best or refusal


def _candidate(spec: LayerSpec, name: str, decision: Decision) -> LayerPlan:
    if decision.ranks is None:
        return _unchanged(spec, decision.reason, decision.notes)
    after = registry.get(name).cost(spec, decision.ranks)
    if not shrinks(spec, after):
        ranks = "x".join(map(str, decision.ranks))
        reason = f"rank {ranks} would not make it smaller"
        return _unchanged(spec, reason, decision.notes)
    return LayerPlan(
        name=spec.name,
        kind=spec.kind,
        layer_type=name,
        ranks=tuple(decision.ranks),
        reason=None,
        changed=True,
        dense=spec.dense,
        before=spec.cost,
        after=after,
        notes=dict(decision.notes),
    )


def _unchanged(
    spec: LayerSpec, reason: str | None, notes: Mapping[str, Any] | None = None
) -> LayerPlan:
    factorized = isinstance(spec.layer, FactorizedLayer)
    return LayerPlan(
        name=spec.name,
        kind=spec.kind,
        layer_type=spec.kind if factorized else None,
        ranks=spec.layer.ranks if factorized else None,
        reason=None if factorized else reason,
        changed=False,
        dense=spec.dense,
        before=spec.cost,
        after=spec.cost,
        notes=dict(notes or {}),
    )


def gentlest(
    plan_at: Callable[[float], Plan], gentle: float, harsh: float, *, steps: int = 40
) -> Plan:
    """The plan of the gentlest strength that meets its budget, by bisection.

    Args:
        plan_at: makes the plan for a strength; costs fall from `gentle` to `harsh`.
        gentle: the weakest strength.
        harsh: the strongest strength.
        steps: halvings of the interval.

    Returns:
        The plan; that of `harsh`, which may miss the budget, where none meets it.
    """
    best = plan_at(harsh)
    if not best.met:
        return best
    low, high = gentle, harsh
    for _ in range(steps):
        middle = (low + high) / 2.0
        plan = plan_at(middle)
        if plan.met:
            best, high = plan, middle
        else:
            low = middle
    return best
