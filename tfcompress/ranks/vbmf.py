"""VBMF: MUSCO's extreme rank from the noise floor, weakened for gradual compression."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfcompress.errors import RankError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.linalg import evbmf_noise_variance, evbmf_rank
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

# Strength of the search for a budget: 1 is the extreme rank, 2 the smallest rank.
_HARSHEST = 2.0


def weakened_rank(rank: int, extreme: int, weakening: float) -> int:
    """`rank - weakening * (rank - extreme)`, rounded down (Gusak et al. 2019).

    Args:
        rank: the current rank.
        extreme: the extreme rank.
        weakening: 0 keeps the rank, 1 goes to the extreme rank.

    Example:
        >>> weakened_rank(64, 14, 0.8)
        24
    """
    return int(rank - weakening * (rank - extreme))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VBMF(RankSelector):
    """Ranks by empirical variational Bayesian matrix factorization.

    The extreme rank counts the singular values above the noise (Nakajima et al.
    2013); the weakened rank goes only part of the way there, so that fine-tuning can
    follow (MUSCO, Gusak et al. 2019). Later rounds need the noise variance of the
    untouched weights: hand over `scores=plan.scores()`; `compress` does.

    Args:
        weakening: weakening factor in [0, 1]; 1 is the extreme rank; None finds the
            smallest that meets the budget, and goes on from the extreme ranks towards
            `min_rank` where these do not meet it.
        round_to: 1 by default: ranks exactly as the formula gives them.
        min_rank: 8 by default, as in the authors' code; layers whose rank is no
            larger than this are left alone.
        keep, types: as in `RankSelector`.

    Raises:
        RankError: a weakening factor outside [0, 1], or neither it nor a budget.

    Example:
        >>> layer = keras.layers.Dense(40, name="layer")
        >>> net = keras.Sequential([keras.Input((30,)), layer])
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (30, 40))
        >>> layer.set_weights([np.ones((30, 40)) + noise, np.zeros(40)])
        >>> VBMF(weakening=0.8, min_rank=1).select(layer_specs(net)).choices()
        {'layer': ('FactorizedDense', (6,))}
    """

    weakening: float | None = 0.8
    round_to: int | None = 1
    min_rank: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weakening is not None and not 0.0 <= self.weakening <= 1.0:
            raise RankError(
                f"weakening must lie in [0, 1]. Received: weakening={self.weakening}"
            )

    def select(
        self,
        specs: Sequence[LayerSpec],
        budget: Budget | None = None,
        scores: Scores | None = None,
    ) -> Plan:
        if self.weakening is None and budget is None:
            raise RankError("VBMF needs a weakening factor or a budget.")
        spectra = Spectra()
        known: dict[tuple[str, str], tuple[tuple[int, ...], list[float]]] = {}

        def at(weakening: float) -> Plan:
            return make_plan(self, specs, budget, lambda s, n: decide(s, n, weakening))

        def decide(spec: LayerSpec, name: str, weakening: float) -> Decision:
            if not registry.get(name).spectral:
                return without_spectrum(self, name)
            key = (spec.name, name)
            if key not in known:
                known[key] = _extreme_ranks(spec, name, spectra, scores or {})
            return self._decide(spec, name, weakening, *known[key])

        if self.weakening is not None:
            return at(self.weakening)
        return gentlest(at, 0.0, _HARSHEST)

    def _decide(
        self,
        spec: LayerSpec,
        name: str,
        weakening: float,
        extreme: tuple[int, ...],
        noise: list[float],
    ) -> Decision:
        notes = {"noise_variance": {name: noise}, "extreme_ranks": list(extreme)}
        now = current_ranks(spec, name)
        largest = registry.get(name).max_ranks(kernel_shape_of(spec.layer))
        if 0 in extreme and self.weakening is not None:
            return Decision(None, None, "EVBMF finds nothing above the noise", notes)
        ranks = []
        for rank, low, most in zip(now, extreme, largest, strict=True):
            if rank <= self.min_rank:
                ranks.append(rank)
                continue
            weak = weakened_rank(rank, min(low, rank), min(weakening, 1.0))
            if weakening > 1.0:
                weak = weakened_rank(weak, self.min_rank, weakening - 1.0)
            ranks.append(min(self.rounded(max(weak, self.min_rank), most), rank))
        return Decision(name, tuple(ranks), notes=notes)


def _extreme_ranks(
    spec: LayerSpec, name: str, spectra: Spectra, scores: Scores
) -> tuple[tuple[int, ...], list[float]]:
    shapes = registry.get(name).unfolding_shapes(kernel_shape_of(spec.layer))
    values = spectra.of(spec, name)
    noise = scores.get(spec.name, {}).get("noise_variance", {}).get(name)
    if noise is None:
        noise = [
            evbmf_noise_variance(v, shape)
            for v, shape in zip(values, shapes, strict=True)
        ]
    ranks = tuple(
        evbmf_rank(v, shape, noise_variance=variance)
        for v, shape, variance in zip(values, shapes, noise, strict=True)
    )
    return ranks, list(noise)
