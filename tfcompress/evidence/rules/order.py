"""Rank correlation, without a framework: rules import nothing heavy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b of two lists of values.

    Args:
        first, second: as many values each.

    Returns:
        From -1 to 1; 0.0 where one list is constant.

    Example:
        >>> kendall([1, 2, 3], [10, 20, 30])
        1.0
    """
    score = pairs = 0
    tied = [0, 0]
    for (a, b), (c, d) in itertools.combinations(zip(first, second, strict=True), 2):
        signs = [(x > 0) - (x < 0) for x in (a - c, b - d)]
        score += signs[0] * signs[1]
        pairs += 1
        tied[0] += signs[0] == 0
        tied[1] += signs[1] == 0
    room = math.sqrt((pairs - tied[0]) * (pairs - tied[1]))
    return score / room if room else 0.0
