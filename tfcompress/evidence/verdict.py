"""Verdicts, and how noise is told from a difference."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

SUPPORTS = "supports"
CONTRASTS = "contrasts"
UNDECIDED = "undecided"
NOT_TESTED = "not tested"
OUTCOMES = (SUPPORTS, CONTRASTS, UNDECIDED, NOT_TESTED)

# A difference counts if it is larger than so many of its standard errors. With three
# seeds chance passes one of them, to either side, in one case of five: in a majority of
# many comparisons hardly ever. Where there are few, they have to be clearer.
_OF_MANY = 1.0
OF_FEW = 2.0
_MANY = 6
# Fewer seeds give no standard error worth the name.
MIN_SEEDS = 3

NOISE = (
    "A comparison counts if its mean difference over at least three seeds, taken seed "
    "by seed, is larger than its standard error; than two of them where there are "
    "fewer than six comparisons."
)
MAJORITY = (
    "Supports if more than half of the comparisons count for the claim, contrasts if "
    "more than half count against it, else undecided."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One comparison that a claim is tested by.

    Attributes:
        label: what is compared.
        value: how far it speaks for the claim; negative: against it.
        error: standard error of the value; 0 where there is none.
        side: 1 if it counts for the claim, -1 against it, 0 within the noise.
    """

    label: str
    value: float
    error: float = 0.0
    side: int = 0

    @classmethod
    def of(cls, label: str, values: Sequence[float]) -> Comparison | None:
        """From one value for each seed; None for fewer than three.

        Args:
            label: what is compared.
            values: how far each seed speaks for the claim.
        """
        if len(values) < MIN_SEEDS:
            return None
        error = statistics.stdev(values) / math.sqrt(len(values))
        return cls(label, statistics.fmean(values), error)

    def judged(self, standard_errors: float = OF_FEW) -> Comparison:
        """With its side: the value must be larger than so many standard errors."""
        side = 0
        if abs(self.value) > standard_errors * self.error:
            side = 1 if self.value > 0 else -1
        return dataclasses.replace(self, side=side)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What our experiment says about a claim.

    Attributes:
        outcome: one of `OUTCOMES`.
        figures: one sentence with the numbers.
        comparisons: what it rests on.

    Example:
        >>> Verdict("undecided", "One of two comparisons counts for it.").to_dict()
        {'outcome': 'undecided', ...}
    """

    outcome: str
    figures: str
    comparisons: tuple[Comparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return dataclasses.asdict(self) | {
            "comparisons": [dataclasses.asdict(one) for one in self.comparisons]
        }


def not_tested(reason: str) -> Verdict:
    """A verdict that there is none yet."""
    return Verdict(NOT_TESTED, reason)


def by_majority(
    found: Iterable[Comparison | None],
    *,
    unit: str | None = "points",
    scale: float = 1.0,
    note: str = "",
) -> Verdict:
    """`MAJORITY` as a verdict.

    Args:
        found: comparisons; None stands for one that could not be made.
        unit: of their values; None does not show them.
        scale: what values are multiplied with to be shown in this unit.
        note: a further sentence.
    """
    known = [one for one in found if one is not None]
    if not known:
        return not_tested("The results hold no comparison over three seeds.")
    limit = _OF_MANY if len(known) >= _MANY else OF_FEW
    made = tuple(one.judged(limit) for one in known)
    good, bad = (sum(one.side == side for one in made) for side in (1, -1))
    outcome = UNDECIDED
    if 2 * good > len(made):
        outcome = SUPPORTS
    elif 2 * bad > len(made):
        outcome = CONTRASTS
    figures = f"{good} of {_counted(made)} for it, {bad} against it"
    if unit is not None:
        figures += f": {_range(made, scale)} {unit}"
    return Verdict(outcome, f"{figures}. {note}".strip(), made)


def _counted(made: Sequence[Comparison]) -> str:
    return "1 comparison counts" if len(made) == 1 else f"{len(made)} comparisons count"


def _range(made: Sequence[Comparison], scale: float) -> str:
    """The values: of one with its error, of many the ends and the middle."""
    values = [scale * one.value for one in made]
    if len(made) == 1:
        error = f" ± {scale * made[0].error:.3g}" if made[0].error else ""
        return f"{values[0]:+.3g}{error}"
    middle = statistics.median(values)
    return f"{min(values):+.3g} to {max(values):+.3g} (median {middle:+.3g})"


def cells_of(document: Mapping[str, Any]) -> dict[tuple[str, ...], dict[int, Any]]:
    """The cells of a grid of experiments: key without its seed -> seed -> cell.

    Args:
        document: a result whose `cells` are named "part | part | seed".
    """
    groups: dict[tuple[str, ...], dict[int, Any]] = {}
    for name, cell in document["cells"].items():
        *key, seed = name.split(" | ")
        groups.setdefault(tuple(key), {})[int(seed)] = cell
    return groups


def paired(
    label: str,
    first: Mapping[int, Any] | None,
    second: Mapping[int, Any] | None,
    value: Callable[[Any], float],
) -> Comparison | None:
    """How much larger a value is in the first group of cells, seed by seed.

    Args:
        label: what is compared.
        first, second: seed -> cell; None where there are none.
        value: of a cell.
    """
    if not first or not second:
        return None
    seeds = sorted(first.keys() & second.keys())
    return Comparison.of(label, [value(first[s]) - value(second[s]) for s in seeds])


def accuracy(cell: Mapping[str, Any]) -> float:
    """Accuracy of a cell in points."""
    return 100.0 * cell["accuracy"]
