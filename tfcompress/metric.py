"""The figure that decides: what it is called, and whether more of it is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure by which networks of a task are judged.

    Args:
        key: its name among the figures, such as "mean_iou".
        label: what reports call it.
        mode: "max" where more of it is better, "min" where less.
        share: whether it is a share, shown in percent.

    Example:
        >>> Metric("mean_iou", "mean IoU").text(0.5)
        '50.00 %'
    """

    key: str
    label: str
    mode: str = "max"
    share: bool = True

    @property
    def counts(self) -> bool:
        """Whether it is a share of independent samples, with a binomial interval."""
        return self.key == "accuracy"

    @property
    def closeness(self) -> str:
        """The figure that tells how close a network is to its teacher."""
        return "agreement" if self.counts else "divergence"

    @property
    def scale(self) -> float:
        """From the figure to what charts show."""
        return 100.0 if self.share else 1.0

    @property
    def axis(self) -> str:
        """What charts write at their axis."""
        return f"{self.label}, %" if self.share else self.label

    def text(self, value: float) -> str:
        """The figure as reports show it."""
        return f"{100 * value:.2f} %" if self.share else f"{value:.4f}"

    @property
    def title(self) -> str:
        """The label as a heading."""
        return self.label if self.label[1:2].isupper() else self.label.capitalize()

    def change(self, before: float, after: float) -> str:
        """The difference in words; empty where it rounds to none."""
        gap = self.scale * (after - before)
        text = f"{gap:+.2f}" if self.share else f"{gap:+.4f}"
        if not float(text):
            return ""
        return f"{text} points" if self.share else text

    def drop(self, before: float, after: float) -> float:
        """How much worse it has become; negative if better."""
        return before - after if self.mode == "max" else after - before

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for a report."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Metric:
        """That of a report; the accuracy where it says nothing."""
        return cls(**report["metric"]) if "metric" in report else ACCURACY


ACCURACY = Metric("accuracy", "accuracy")

# The task of a data set whose targets are class numbers.
CLASSIFICATION = "classification"

# By the task of a data set.
METRICS = {
    CLASSIFICATION: ACCURACY,
    "detection": Metric("map", "mAP"),
    "segmentation": Metric("mean_iou", "mean IoU"),
    "regression": Metric("mae", "mean absolute error", mode="min", share=False),
}
