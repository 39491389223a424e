"""Rules on ranks: EVBMF, and what errors of single layers tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress.evidence.verdict import (
    MIN_SEEDS,
    Comparison,
    Verdict,
    by_majority,
    cells_of,
)

PLANTED_TEXT = (
    "Matrices of known rank plus noise. A shape, rank and strength of the signal "
    "counts for the claim if the rank is found to within one at every seed, else "
    "against it."
)
TRUNCATED_TEXT = (
    "Kernels of known ranks plus noise, cut to the ranks that EVBMF finds; then EVBMF "
    "is asked for the core. It counts for the claim if it finds the known ranks again "
    "to within one at every seed, else against it."
)
LAYERS_TEXT = (
    "Kendall's tau between the relative error of the weights and the divergence of the "
    "network's outputs, across decompositions of one layer against across layers."
)


def planted(document: Mapping[str, Any]) -> Verdict:
    """Does EVBMF find the rank that was planted?"""
    found = [
        _within_one(
            f"{size}, rank {rank}, strength {strength}",
            [[cell["found"]] for cell in group.values()],
            int(rank),
        )
        for (kind, size, rank, strength), group in cells_of(document).items()
        if kind == "planted"
    ]
    return by_majority(found, unit=None, note=_furthest(found))


def truncated(document: Mapping[str, Any]) -> Verdict:
    """Does EVBMF find the ranks of a core that was cut to them?"""
    found, kept = [], []
    for (kind, size, rank, strength), group in cells_of(document).items():
        if kind != "truncated":
            continue
        label = f"3x3x{size}x{size}, rank {rank}, strength {strength}"
        stages = {
            stage: [cell[stage] for cell in group.values()]
            for stage in ("again", "kept")
        }
        found.append(_within_one(label, stages["again"], int(rank)))
        kept.append(_within_one(label, stages["kept"], int(rank)))
    right = sum(one is not None and one.value > 0 for one in kept)
    note = (
        f"{_furthest(found)} With the noise variance of the untouched kernel, which "
        f"tfcompress keeps, the ranks are found in {right} of {len(kept)}."
    )
    return by_majority(found, unit=None, note=note)


def _furthest(found: list[Comparison | None]) -> str:
    """How far off the worst of the ranks are that are not found."""
    off = max((-one.value for one in found if one is not None), default=0.0)
    return (
        f"Ranks that are not found are off by {100.0 * off:.0f} %." if off > 0 else ""
    )


def _within_one(label: str, ranks: list[list[int]], wanted: int) -> Comparison | None:
    """1 where all ranks are the wanted one to within one, else how far off they are."""
    if len(ranks) < MIN_SEEDS:
        return None
    off = [abs(rank - wanted) for seed in ranks for rank in seed]
    mean = sum(off) / len(off)
    return Comparison(label, 1.0 if max(off) <= 1 else -mean / wanted)


def layer_errors(document: Mapping[str, Any]) -> Verdict:
    """Do weight errors compare better across decompositions than across layers?"""
    cells = [cell["weights"] for cell in document["cells"].values()]
    gains = [c["across decompositions"] - c["across layers"] for c in cells]
    one = Comparison.of("across decompositions against across layers", gains)
    note = ""
    if one is not None:
        within, between = (
            sum(c[kind] for c in cells) / len(cells)
            for kind in ("across decompositions", "across layers")
        )
        note = f"Kendall's tau is {within:.2f} within a layer, {between:.2f} across."
    return by_majority([one], unit="of Kendall's tau", note=note)
