"""Ratio: one constant compression rate for every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tfcompress.errors import RankError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.ranks.base import (
    RankSelector,
    Scores,
    current_ranks,
    gentlest,
    make_plan,
)
from tfcompress.ranks.plan import Budget, Decision, Plan
from tfcompress.spec import LayerSpec

_HARSHEST = 1024.0


def rank_for_rate(count: float, unit: float, rate: float) -> float:
    """Rank of a pair of factors that leaves `count / rate` weights.

    Args:
        count: weights of the layer now.
        unit: weights of the pair at rank one.
        rate: compression rate, at least 1.
    """
    return count / (rate * unit)


def tucker2_ranks_for_rate(
    kernel_shape: tuple[int, ...], count: float, rate: float
) -> tuple[float, float]:
    """Tucker-2 ranks that leave `count / rate` weights (MUSCO's formula).

    Solves `beta taps r² + (in + beta out) r = count / rate` for `r = r_in`, with
    `r_out = beta r_in` and `beta = max(0.8 out / in, 1)`.

    Args:
        kernel_shape: `(*kernel_size, in, out)`.
        count: weights of the layer now.
        rate: compression rate, at least 1.

    Returns:
        `(r_in, r_out)`, not rounded.
    """
    *size, n_in, n_out = kernel_shape
    beta = max(0.8 * n_out / n_in, 1.0)
    a, b, c = beta * math.prod(size), n_in + beta * n_out, -count / rate
    # The form without the difference of two nearly equal numbers.
    r_in = -2.0 * c / (b + math.sqrt(b * b - 4.0 * a * c))
    return r_in, beta * r_in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio(RankSelector):
    """Every layer shrinks by the same rate (MUSCO's constant compression rate).

    On a layer that is factorized already, the rate is of its current weights, so
    passes multiply.

    Args:
        rate: compression rate of the weights of each layer, above 1; None finds the
            smallest rate that meets the budget.
        keep, types, round_to, min_rank: as in `RankSelector`.

    Raises:
        RankError: a rate of 1 or less, or neither rate nor budget.

    Example:
        >>> plan = Ratio(rate=4.0).select(layer_specs(model))
        >>> plan.before.params, plan.after.params
        (1610, 385)
    """

    rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 1):
            raise RankError(f"rate must be above 1. Received: rate={self.rate}")

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        if self.rate is None and budget is None:
            raise RankError("Ratio needs a rate or a budget. Received: neither")

        def at(log_rate: float) -> Plan:
            rate = math.exp(log_rate)
            return make_plan(self, specs, budget, lambda s, n: self._decide(s, n, rate))

        if self.rate is not None:
            return at(math.log(self.rate))
        return gentlest(at, 0.0, math.log(_HARSHEST))

    def _decide(self, spec: LayerSpec, name: str, rate: float) -> Decision:
        cls = registry.get(name)
        shape = kernel_shape_of(spec.layer)
        count = spec.cost.params - cls.kept_params(spec.layer)
        if cls.rank_count == 2:
            wanted = tucker2_ranks_for_rate(shape, count, rate)
        else:
            sizes = cls.factor_shapes(shape, (1,)).values()
            wanted = (rank_for_rate(count, sum(map(math.prod, sizes)), rate),)
        largest = cls.max_ranks(shape)
        ranks = tuple(
            min(self.rounded(rank, most), now)
            for rank, most, now in zip(
                wanted, largest, current_ranks(spec, name), strict=True
            )
        )
        return Decision(name, ranks)
