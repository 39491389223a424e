"""Energy: ranks that keep the same share of each kernel's energy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfcompress.errors import RankError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.ranks.base import (
    RankSelector,
    Scores,
    Spectra,
    current_ranks,
    gentlest,
    make_plan,
    without_spectrum,
)
from tfcompress.ranks.plan import Budget, Decision, Plan
from tfcompress.spec import LayerSpec

# The strongest loss of energy a budget may drive to: ranks of one beyond it.
_HARSHEST = 0.9999


def rank_for_energy(values: np.ndarray, lost: float) -> int:
    """Smallest rank whose tail holds at most the share `lost` of the energy.

    Args:
        values: singular values, largest first.
        lost: share of the sum of squares that may be cut, in [0, 1).

    Example:
        >>> rank_for_energy(np.array([3.0, 1.0]), 0.1)
        1
    """
    energy = np.square(np.asarray(values, np.float64))
    total = energy.sum()
    if total <= 0.0:
        return 1
    tails = total - np.cumsum(energy)
    # Rounding of the sum must not cost a rank where nothing may be lost.
    kept = np.count_nonzero(tails > lost * total + 1e-12 * total) + 1
    return int(min(kept, len(energy)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy(RankSelector):
    """The same relative weight error for every layer, over all layer types.

    For Tucker-2 the loss is shared evenly by both modes: the error of the whole is at
    most the sum of both (De Lathauwer et al. 2000, property 10).

    Args:
        threshold: share of the squared Frobenius norm to keep, in (0, 1); None finds
            the largest one that meets the budget.
        types: as in `RankSelector`; by default "cheapest" for every layer: of the
            types that keep this much, the one with the fewest MACs.
        keep, round_to, min_rank: as in `RankSelector`.

    Raises:
        RankError: a threshold outside (0, 1), or neither threshold nor budget.

    Example:
        >>> plan = Energy(threshold=0.5).select(layer_specs(model))
        >>> sorted(plan.choices())
        ['conv', 'head']
    """

    threshold: float | None = None
    types: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"*": "cheapest"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise RankError(
                f"threshold must lie in (0, 1). Received: threshold={self.threshold}"
            )

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        if self.threshold is None and budget is None:
            raise RankError("Energy needs a threshold or a budget. Received: neither")
        spectra = Spectra()

        def at(log_lost: float) -> Plan:
            lost = math.exp(log_lost)
            return make_plan(
                self, specs, budget, lambda s, n: self._decide(s, n, lost, spectra)
            )

        if self.threshold is not None:
            return at(math.log(1.0 - self.threshold))
        return gentlest(at, math.log(1e-6), math.log(_HARSHEST))

    def _decide(
        self, spec: LayerSpec, name: str, lost: float, spectra: Spectra
    ) -> Decision:
        cls = registry.get(name)
        if not cls.spectral:
            return without_spectrum(self, name)
        largest = cls.max_ranks(kernel_shape_of(spec.layer))
        now = current_ranks(spec, name)
        ranks = []
        for values, most, limit in zip(
            spectra.of(spec, name), largest, now, strict=True
        ):
            rank = rank_for_energy(values, lost / cls.rank_count)
            # Up: the threshold is kept, and a budget counts what rounding costs.
            ranks.append(min(self.rounded(rank, most, up=True), limit))
        return Decision(name, tuple(ranks))
