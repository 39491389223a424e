"""Numbers as text, and the intervals they lie in."""

from __future__ import annotations

import math
from typing import Any

_Z = 1.959963984540054  # of the normal distribution, for 95 %


def interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share that was found among so many samples.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    1927: unlike the textbook's, it is right for shares near 0 and 1.

    Args:
        share: in [0, 1].
        count: of samples, at least 1.

    Example:
        >>> low, high = interval(1.0, 359)
        >>> f"{low:.3f} to {high:.3f}"
        '0.989 to 1.000'
    """
    square = _Z**2 / count
    middle = (share + square / 2) / (1 + square)
    spread = share * (1 - share) / count + square / 4 / count
    half = _Z / (1 + square) * math.sqrt(spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def percent(share: float) -> str:
    """As `99.72 %`."""
    return f"{100 * share:.2f} %"


def percent_range(share: float, count: Any) -> str:
    """The 95 % interval as text; empty where the number of samples is not known."""
    if not count:
        return ""
    low, high = interval(share, count)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def short(value: float, unit: str = "") -> str:
    """A count in few digits, as `382 k` or, of bytes, `56.5 kB`."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def milliseconds(value: float) -> str:
    """Three digits, as `0.0402 ms` or `12.3 ms`."""
    return f"{value:.3g} ms"


def times(before: float, after: float, *, less: str, more: str) -> str:
    """The ratio of two figures in words, as `4.3x fewer`."""
    if not before or not after:
        return ""
    if after <= before:
        ratio, word = before / after, less
    else:
        ratio, word = after / before, more
    return "the same" if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f}x {word}"
