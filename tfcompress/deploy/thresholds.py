"""What a file must hold to be blessed. Importing this needs no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tfcompress.errors import OptionError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits on the measured figures of a file; None sets none.

    Args:
        min_accuracy: top-1 accuracy, in [0, 1].
        max_drop: accuracy lost against the baseline, absolute.
        min_agreement: share of examples that the baseline classifies alike.
        max_bytes: size of the file.
        max_latency_ms: median time of one image on one thread.

    Raises:
        OptionError: a limit out of range.

    Example:
        >>> Thresholds(max_drop=0.01, max_bytes=100_000).limits()
        {'max_drop': 0.01, 'max_bytes': 100000}
    """

    min_accuracy: float | None = None
    max_drop: float | None = None
    min_agreement: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.limits().items():
            share = name in ("min_accuracy", "max_drop", "min_agreement")
            if value < 0 or (share and value > 1):
                bound = "lie in [0, 1]" if share else "not be negative"
                raise OptionError(f"{name} must {bound}. Received: {value}")

    @classmethod
    def of(cls, limits: Mapping[str, float]) -> Thresholds:
        """From plain data.

        Raises:
            OptionError: an unknown name.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in limits:
            if name not in known:
                raise OptionError(f"No threshold '{name}'; {nearest(name, known)}")
        return cls(**limits)

    def limits(self) -> dict[str, float]:
        """Those that are set."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}


# Figure, what it is called, and whether it must be at least the limit.
_RULES = {
    "min_accuracy": ("accuracy", True),
    "max_drop": ("drop", False),
    "min_agreement": ("agreement", True),
    "max_bytes": ("bytes", False),
    "max_latency_ms": ("latency_ms", False),
}


def failures(figures: Mapping[str, float], limits: Thresholds) -> list[str]:
    """What does not hold, in words; empty where all does.

    Raises:
        OptionError: a limit on a figure that was not measured.
    """
    found = []
    for name, limit in limits.limits().items():
        figure, at_least = _RULES[name]
        if figure not in figures:
            way = (
                "give latency_runs"
                if figure == "latency_ms"
                else "give a baseline_model"
            )
            raise OptionError(f"{name} needs the figure '{figure}', so {way}.")
        value = figures[figure]
        if not (value >= limit if at_least else value <= limit):
            sign = "below" if at_least else "above"
            found.append(f"{figure} {value:.6g} is {sign} {name} {limit:.6g}")
    return found
