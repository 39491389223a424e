"""Rules on the loop: rounds, weakened ranks, tasks, batch-norm recalibration."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tfcompress.evidence.rules.order import kendall
from tfcompress.evidence.verdict import (
    MIN_SEEDS,
    Comparison,
    Verdict,
    accuracy,
    by_majority,
    cells_of,
    not_tested,
    paired,
)

# One task is no variety.
SEVERAL = 3

Pairs = Sequence[tuple[str, str]]

ITERATING_TEXT = (
    "Each method in rounds against one shot with the same rank selector, for every "
    "network, budget and way of fine-tuning, at the same number of epochs in all; "
    "pairs of which one misses the budget are left out."
)
WEAKENED_TEXT = (
    "Weakened ranks in three passes against the extreme rank in one, at the same "
    "number of epochs in all; seeds where the former costs over five percent more are "
    "left out."
)
TASKS_TEXT = (
    "For each task the metric before and after, relative to before: it counts for the "
    "claim if at most three percent are lost, two standard errors included, and "
    "against it if more are, two standard errors left out. Three tasks are needed."
)
RECALIBRATION_TEXT = (
    "Test accuracy right after factorization, with recalibrated statistics against "
    "without, for every network, budget and selector."
)
CORRELATION_TEXT = (
    "In every network and way of fine-tuning the candidates are all methods at all "
    "budgets; Kendall's tau of their accuracy before fine-tuning with that after it, "
    "with recalibrated statistics against without, for every seed."
)


def iterating(document: Mapping[str, Any], *, pairs: Pairs) -> Verdict:
    """Does going in rounds beat one shot?

    Args:
        document: of `iterative_vs_oneshot`.
        pairs: methods (in rounds, in one shot) to compare.
    """
    groups = {
        key: {seed: cell for seed, cell in group.items() if cell["target_met"]}
        for key, group in cells_of(document).items()
    }
    found = []
    leads: dict[str, list[float]] = {}
    for network, budget, by in sorted({(k[0], k[1], k[3]) for k in groups}):
        for rounds, once in pairs:
            label = f"{rounds} against {once}, {network}, MACs {budget}, by {by}"
            sides = [groups.get((network, budget, m, by)) for m in (rounds, once)]
            one = paired(label, *sides, accuracy)
            if one is not None:
                found.append(one)
                leads.setdefault(budget, []).append(one.value)
    medians = [
        f"{statistics.median(values):+.2f} at {float(budget):.3g}"
        for budget, values in sorted(leads.items(), reverse=True)
    ]
    note = f"Medians by share of the MACs: {', '.join(medians)}."
    return by_majority(found, note=note)


def weakened(document: Mapping[str, Any], *, allowed: float = 1.05) -> Verdict:
    """Do weakened ranks in passes beat the extreme rank in one shot?

    Args:
        document: of `weakened_rank`.
        allowed: cost of the former over that of the latter that still compares.
    """
    groups = cells_of(document)
    found = []
    for network in sorted({key[0] for key in groups}):
        extreme = groups.get((network, "extreme"), {})
        weak = {
            seed: cell
            for seed, cell in groups.get((network, "weakened"), {}).items()
            if seed in extreme and cell["macs"] <= allowed * extreme[seed]["macs"]
        }
        label = f"weakened against extreme, {network} units"
        found.append(paired(label, weak, extreme, accuracy))
    return by_majority(found)


def tasks(document: Mapping[str, Any], *, allowed: float = 0.03) -> Verdict:
    """Does every task keep its metric?

    Args:
        document: of `tasks`.
        allowed: relative loss of a metric that counts as kept.
    """
    found = []
    for key, group in cells_of(document).items():
        kept = []
        for cell in group.values():
            change = (cell["after"] - cell["before"]) / abs(cell["before"])
            kept.append(allowed + (change if cell["higher_is_better"] else -change))
        found.append(Comparison.of(f"metric kept, {', '.join(key)}", kept))
    measured = sum(one is not None for one in found)
    if measured < SEVERAL:
        return not_tested(
            f"Of the {SEVERAL} tasks, {measured} have results of three seeds."
        )
    return by_majority(found, unit="% to spare", scale=100.0)


def recalibration(document: Mapping[str, Any], *, factors: Sequence[str]) -> Verdict:
    """Does recalibrating batch norm win accuracy back right after factorization?

    Args:
        document: of `data_aware`.
        factors: "plain", "data-aware", "asymmetric": those to look at.
    """
    found = []
    for key, group in cells_of(document).items():
        names = dict.fromkeys(name for cell in group.values() for name in cell)
        for method in names:
            if method.rpartition(", ")[2] not in factors:
                continue
            gains = [
                100.0 * (cell[method]["recalibrated"] - cell[method]["accuracy"])
                for cell in group.values()
                if method in cell
            ]
            label = f"recalibrated against not, {key[0]}, MACs {key[1]}, {method}"
            found.append(Comparison.of(label, gains))
    return by_majority(found)


def correlation(document: Mapping[str, Any]) -> Verdict:
    """Do recalibrated candidates tell better which will be best after fine-tuning?"""
    candidates: dict[tuple[str, str], dict[int, list[Any]]] = {}
    for (network, _, _, by), group in cells_of(document).items():
        for seed, cell in group.items():
            known = candidates.setdefault((network, by), {}).setdefault(seed, [])
            known.append(cell["validation"][-1])
    found, seen = [], []
    for (network, by), seeds in candidates.items():
        gains = []
        for rounds in seeds.values():
            if len(rounds) < MIN_SEEDS:
                continue
            tuned = [one["fine_tuned"] for one in rounds]
            taus = [
                kendall([one[stage] for one in rounds], tuned)
                for stage in ("factorized", "recalibrated")
            ]
            gains.append(taus[1] - taus[0])
            seen.append(taus)
        found.append(Comparison.of(f"Kendall's tau, {network}, by {by}", gains))
    note = ""
    if seen:
        plain, fresh = (sum(pair[i] for pair in seen) / len(seen) for i in (0, 1))
        note = f"Kendall's tau is {fresh:.2f} with it and {plain:.2f} without."
    return by_majority(found, unit="of Kendall's tau", note=note)
