"""Does the loop keep the metric of tasks other than classification?

    python -m benchmarks.tasks              # about seven hours of a core
    python -m benchmarks.tasks --seeds 1

The recipes of detection, segmentation and regression, run as they are: trained,
compressed to a third of the MACs in rounds that match the network's own raw outputs,
exported, and judged by the task's metric on test images, on the files. A
network keeps its metric where it loses at most 3 % of it. Runs are kept in
`benchmarks/cache/tasks`, and go on where they were stopped.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.networks import CACHE
from tfcompress.metric import Metric
from tfcompress.recipe import load_recipe
from tfcompress.runner import run_recipe

NAME = "tasks"
RECIPES = Path(__file__).parents[1] / "pipelines" / "recipes"
TASKS = ("detection", "segmentation", "regression")
ALLOWED = 0.03
NOTES = (
    "Test metric of the .tflite files, mean and standard deviation over the seeds; the",
    "change is relative, and counts as kept above -3 % (better is positive).",
)


def run_cell(name: str, seed: int) -> dict[str, Any]:
    """Runs a recipe with a seed, and reads its report."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", [f"seed={seed}"])
    folder = CACHE / NAME / f"{name}-{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return cell_of(run_recipe(recipe, folder))


def cell_of(report: dict[str, Any]) -> dict[str, Any]:
    """What counts of a run's report."""
    metric = Metric.of(report)
    figures = {stage["stage"]: stage["figures"] for stage in report["stages"]}
    files = {row["name"]: row for row in figures["evaluate"]["files"]}
    teacher = files["teacher float32"]
    float32, int8 = (files[f"compressed {form}"] for form in ("float32", "int8"))
    time = [row["latency"]["median_ms"] for row in (teacher, float32, int8)]
    return {
        "metric": metric.label,
        "before": teacher[metric.key],
        "after": float32[metric.key],
        "after_int8": int8[metric.key],
        "higher_is_better": metric.mode == "max",
        "target_met": figures["compress"]["target_met"],
        "macs": float32["macs"] / teacher["macs"],
        "bytes_int8": int8["bytes"] / teacher["bytes"],
        "latency": time[1] / time[0],
        "latency_int8": time[2] / time[0],
    }


def gain(cell: dict[str, Any], key: str = "after") -> float:
    """The relative change of the metric; better is positive."""
    change = (cell[key] - cell["before"]) / abs(cell["before"])
    return change if cell["higher_is_better"] else -change


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table."""
    rows = []
    for name in TASKS:
        names = [Cells.name(key) for key in keys if key[0] == name]
        group = [cells[name] for name in names if name in cells]
        if not group:
            continue
        row = [f"{name} ({group[0]['metric']})"]
        for side in ("before", "after", "after_int8"):
            row.append(_spread([cell[side] for cell in group], "{:.4f}"))
        for side in ("after", "after_int8"):
            changes = [100 * gain(cell, side) for cell in group]
            kept = np.mean(changes) >= -100 * ALLOWED
            row.append(f"{_spread(changes, '{:+.2f}')} ({'kept' if kept else 'LOST'})")
        for ratio in ("macs", "latency", "bytes_int8"):
            row.append(f"{np.mean([cell[ratio] for cell in group]):.3f}")
        rows.append([*row, len(group)])
    header = [
        "task",
        "before",
        "after",
        "after, int8",
        "change, %",
        "change of int8, %",
        "MACs",
        "latency",
        "int8 bytes",
        "n",
    ]
    return [*table(header, rows), "", *NOTES]


def _spread(values: list[float], form: str) -> str:
    mean = form.format(np.mean(values))
    return f"{mean} ± {np.std(values):.4f}" if len(values) > 1 else mean


def keys_of(seeds: int) -> list[tuple[str, int]]:
    """All cells: all tasks of one seed before the next."""
    return [(name, seed) for seed, name in itertools.product(range(seeds), TASKS)]


def main() -> None:
    run_grid(NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings={})


if __name__ == "__main__":
    main()
