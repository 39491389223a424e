"""Plots of a run; needs the extra `plots` (matplotlib)."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from tfcompress.metric import Metric

_DPI = 120


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_report(report: dict[str, Any], path: Path) -> bool:
    """Draws the metric over MACs of every round, and the distillation's curves.

    Args:
        report: as `tfcompress.report.write_report` makes it.
        path: the PNG file to write.

    Returns:
        False where the run has nothing to draw.
    """
    from matplotlib.figure import Figure

    figures = {stage["stage"]: stage["figures"] for stage in report["stages"]}
    panels = []
    if figures.get("compress", {}).get("rounds"):
        panels.append((partial(_rounds, metric=Metric.of(report)), figures["compress"]))
    if figures.get("distill", {}).get("history", {}).get("agreement"):
        panels.append((_curves, figures["distill"]["history"]))
    if not panels:
        return False
    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (draw, data) in zip(axes, panels, strict=True):
        draw(axis, data)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    # Without a date in it, equal runs give equal files.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return True


def _rounds(axis: Any, compress: dict[str, Any], *, metric: Metric) -> None:
    before = compress["before"]
    start = (1.0, before[metric.key])
    kept = [start]
    for entry in compress["rounds"]:
        share = entry["after"]["macs"] / entry["dense"]["macs"]
        steps = [entry[k][metric.key] for k in ("recalibrated", "fine_tuned")]
        color = "C0" if entry["accepted"] else "C3"
        axis.plot([share, share], steps, color=color, alpha=0.4, linestyle=":")
        axis.plot(share, steps[0], "v", color=color, alpha=0.5)
        if entry["accepted"]:
            kept.append((share, steps[1]))
        else:
            axis.plot(share, steps[1], "x", color=color, label="rolled back")
    axis.plot(*zip(*kept, strict=True), "o-", color="C0", label="kept")
    axis.plot([], [], "v", color="grey", alpha=0.5, label="before fine-tuning")
    if "macs" in compress["target"]:
        axis.axvline(compress["target"]["macs"], color="grey", linestyle="--")
    axis.set(xlabel="MACs, share of the student", ylabel=f"validation {metric.label}")
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), frameon=False)
    axis.invert_xaxis()


def _curves(axis: Any, history: dict[str, list[float]]) -> None:
    epochs = len(history["agreement"])
    axis.plot(range(1, epochs + 1), history["agreement"], alpha=0.4, label="training")
    validated = history.get("val_agreement", [])
    if validated:
        every = max(epochs // len(validated), 1)
        places = [every * (i + 1) for i in range(len(validated))]
        axis.plot(places, validated, label="validation")
    axis.set(xlabel="epoch", ylabel="agreement with the teacher", ylim=(None, 1.0))
    axis.legend(frameon=False)
