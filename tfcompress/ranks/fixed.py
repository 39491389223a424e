"""Fixed: the ranks a user gives."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from tfcompress.errors import RankError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.ranks.base import RankSelector, Scores, current_ranks, make_plan
from tfcompress.ranks.plan import Budget, Decision, Plan
from tfcompress.spec import LayerSpec

Rank = int | float | tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(RankSelector):
    """Ranks by layer path; the last pattern that matches wins.

    Args:
        ranks: pattern (`fnmatch`) -> rank. An integer stands for all ranks of the
            layer, a tuple gives each, a fraction in (0, 1) is of the largest useful
            ranks, None leaves the layer alone. Ranks are taken as given.
        keep, types, round_to, min_rank: as in `RankSelector`.

    Raises:
        RankError: in `select`: a fraction outside (0, 1), or ranks that a layer cannot
            have.

    Example:
        >>> Fixed(ranks={"*": 0.5, "stem": None, "block2/conv": (16, 24)}).ranks["*"]
        0.5
    """

    ranks: Mapping[str, Rank]

    def patterns(self) -> tuple[str, ...]:
        return (*super().patterns(), *self.ranks)

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        return make_plan(self, specs, budget, self._decide)

    def _decide(self, spec: LayerSpec, name: str) -> Decision:
        matching = [p for p in self.ranks if fnmatch.fnmatchcase(spec.name, p)]
        if not matching:
            return Decision(None, None, "no rank given")
        rank = self.ranks[matching[-1]]
        if rank is None:
            return Decision(None, None, "kept as asked")
        cls = registry.get(name)
        if isinstance(rank, float):
            if not 0.0 < rank < 1.0:
                raise RankError(
                    "A rank given as a fraction must lie in (0, 1). "
                    f"Received: {matching[-1]}={rank}"
                )
            largest = cls.max_ranks(kernel_shape_of(spec.layer))
            ranks = tuple(self.rounded(rank * most, most) for most in largest)
        else:
            given = (rank,) * cls.rank_count if isinstance(rank, int) else tuple(rank)
            ranks = cls.check_ranks(kernel_shape_of(spec.layer), given)
        now = current_ranks(spec, name)
        return Decision(name, tuple(map(min, ranks, now)))
