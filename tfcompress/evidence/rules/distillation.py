"""Rules on distillation: views, mixup, length, labels, the start, batch norm."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from tfcompress.evidence.verdict import (
    CONTRASTS,
    SUPPORTS,
    UNDECIDED,
    Comparison,
    Verdict,
    accuracy,
    by_majority,
    cells_of,
    not_tested,
    paired,
)

VIEWS_TEXT = (
    "Held-out accuracy of the two modes for every experiment and length of schedule."
)
CLEAR_TEXT = (
    "Here a difference counts if its mean over at least three seeds, taken seed by "
    "seed, is larger than two standard errors."
)
MIXUP_TEXT = (
    "Function matching against consistent views in every experiment. An experiment "
    "speaks for the claim if mixup loses at the shortest schedule and wins at the "
    "longest, against it if it does the opposite at either end and not what is claimed "
    "at the other."
)
PATIENCE_TEXT = (
    "Every schedule against the next shorter one, with consistent views and with "
    "function matching, in every experiment."
)
OVERFIT_TEXT = (
    "Training by labels at the longest schedule against the best of the shorter ones, "
    "in every experiment: it counts for the claim if the longest is worse."
)
WARM_TEXT = (
    "The student that starts with factorized weights against one with random weights. "
    "Supports if it is better at the shortest schedule and its lead at the longest is "
    "smaller, contrasts if it is worse at the shortest or leads by no less at the "
    "longest, else undecided."
)
BATCH_NORM_TEXT = (
    "A student with batch normalization, trained with function matching: its accuracy "
    "after the statistics were taken anew from clean images against before. It counts "
    "for the claim if that wins something back."
)


def _experiments(document: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Experiment -> length of schedule, rising -> mode -> seed -> cell."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for (experiment, mode, epochs), group in cells_of(document).items():
        found.setdefault(experiment, {}).setdefault(int(epochs), {})[mode] = group
    return {name: dict(sorted(lengths.items())) for name, lengths in found.items()}


def views(document: Mapping[str, Any], *, better: str, worse: str) -> Verdict:
    """Is one mode of views better than another?

    Args:
        document: of `patience`.
        better, worse: modes; the claim is that the first wins.
    """
    found = [
        paired(
            f"{better} against {worse}, {name}, {epochs} epochs",
            modes.get(better),
            modes.get(worse),
            accuracy,
        )
        for name, lengths in _experiments(document).items()
        for epochs, modes in lengths.items()
    ]
    return by_majority(found)


def mixup(document: Mapping[str, Any]) -> Verdict:
    """Does mixup lose in short runs and win in long ones?"""
    found, ends = [], []
    for name, lengths in _experiments(document).items():
        made = {}
        for epochs, modes in lengths.items():
            label = f"function matching against consistent, {name}, {epochs} epochs"
            sides = [modes.get(m) for m in ("function_matching", "consistent")]
            one = paired(label, *sides, accuracy)
            if one is not None:
                made[epochs] = one.judged()
        if len(made) < 2:
            continue
        short, long = made[min(made)], made[max(made)]
        # Turned, so that it speaks for the claim where mixup loses.
        early = Comparison(short.label, -short.value, short.error, -short.side)
        found += [early, long]
        sides = {early.side, long.side}
        ends.append(1 if sides == {1} else -1 if -1 in sides and 1 not in sides else 0)
    if not ends:
        return not_tested("The results hold no two lengths over three seeds.")
    good, bad = ends.count(1), ends.count(-1)
    outcome = UNDECIDED
    if 2 * good > len(ends):
        outcome = SUPPORTS
    elif 2 * bad > len(ends):
        outcome = CONTRASTS
    early, late = (statistics.fmean(c.value for c in found[i::2]) for i in (0, 1))
    figures = (
        f"{good} of {len(ends)} experiments show both, {bad} the opposite: mixup is "
        f"worth {-early:+.2f} points at the shortest schedules and {late:+.2f} at the "
        "longest."
    )
    return Verdict(outcome, figures, tuple(found))


def patience(document: Mapping[str, Any]) -> Verdict:
    """Do longer schedules go on helping?"""
    found = []
    for name, lengths in _experiments(document).items():
        ordered = list(lengths)
        for mode in ("consistent", "function_matching"):
            for short, long in zip(ordered, ordered[1:], strict=False):
                label = f"{long} against {short} epochs, {mode}, {name}"
                sides = [lengths[n].get(mode) for n in (long, short)]
                found.append(paired(label, *sides, accuracy))
    return by_majority(found)


def overfit(document: Mapping[str, Any]) -> Verdict:
    """Do long runs by labels alone overfit?"""
    found = []
    for name, lengths in _experiments(document).items():
        known = {
            n: modes["labels"] for n, modes in lengths.items() if "labels" in modes
        }
        if len(known) < 2:
            continue
        longest = max(known)
        shorter = [n for n in known if n != longest]
        best = max(shorter, key=lambda n: _mean(known[n]))
        label = f"labels, {best} against {longest} epochs, {name}"
        found.append(paired(label, known[best], known[longest], accuracy))
    return by_majority(found)


def _mean(group: Mapping[int, Any]) -> float:
    return statistics.fmean(accuracy(cell) for cell in group.values())


def warm_start(document: Mapping[str, Any]) -> Verdict:
    """Does a start with weights help short runs, and less so long ones?"""
    groups = cells_of(document)
    lengths = sorted({int(key[1]) for key in groups})
    made = []
    for epochs in lengths:
        sides = [groups.get((s, str(epochs))) for s in ("factorized", "random")]
        label = f"factorized against random weights, {epochs} epochs"
        one = paired(label, *sides, accuracy)
        if one is not None:
            made.append(one.judged())
    if len(made) < 2:
        return not_tested("The results hold no two lengths over three seeds.")
    first, last = made[0], made[-1]
    outcome = UNDECIDED
    if first.side == 1 and last.value < first.value:
        outcome = SUPPORTS
    elif first.side == -1 or (first.side == 1 and last.value >= first.value):
        outcome = CONTRASTS
    leads = ", ".join(
        f"{one.value:+.2f} ± {one.error:.2f} points ({one.label.rsplit(', ', 1)[1]})"
        for one in made
    )
    return Verdict(outcome, f"Lead of the factorized start: {leads}.", tuple(made))


def batch_norm(document: Mapping[str, Any]) -> Verdict:
    """Do the statistics of batch norm cost accuracy under function matching?"""
    groups = cells_of(document)

    def gains(mode: str) -> Comparison | None:
        cells = groups.get(("batch norm", mode), {})
        values = [accuracy(c["after"]) - accuracy(c) for c in cells.values()]
        return Comparison.of(f"recalibrated against not, {mode}", values)

    tested, other = gains("function_matching"), gains("consistent")
    note = ""
    if other is not None:
        note = f"With consistent views it is {other.value:+.2f} ± {other.error:.2f}."
    return by_majority([tested], note=note)
