"""`report.json` and `report.md`: what a run did, in figures."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress import __version__, plots
from tfcompress.files import write_atomically
from tfcompress.metric import METRICS, Metric

if TYPE_CHECKING:
    from tfcompress.data import Dataset
    from tfcompress.recipe import Recipe

# Keys whose values depend on the clock: two runs of one seed differ only in these.
TIMES = ("seconds", "latency")

_PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert")


def write_report(
    recipe: Recipe, data: Dataset, results: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Writes both files into the run folder and returns the data.

    Args:
        recipe: what was run.
        data: the data set.
        results: one result per stage, as the runner stores them.
        folder: the run folder.
    """
    report = {
        "recipe": recipe.to_dict(),
        "tfcompress": __version__,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "dataset": {
            "name": data.name,
            "image_shape": list(data.image_shape),
            "task": data.task,
            "classes": data.num_classes,
            "sizes": data.sizes,
            "fingerprint": data.fingerprint,
        },
        "metric": METRICS[data.task].to_dict(),
        "stages": [
            {key: result[key] for key in ("stage", "hashes", "figures", "seconds")}
            for result in results
        ],
    }
    write_atomically(folder / "report.json", json.dumps(report, indent=1))
    picture = None
    if plots.available() and plots.plot_report(report, folder / "report.png"):
        picture = "report.png"
    write_atomically(folder / "report.md", to_markdown(report, picture=picture))
    return report


def without_times(report: Any) -> Any:
    """A report without anything that depends on the clock, for comparisons."""
    if isinstance(report, dict):
        return {k: without_times(v) for k, v in report.items() if k not in TIMES}
    if isinstance(report, list):
        return [without_times(item) for item in report]
    return report


def file_table(report: dict[str, Any]) -> list[list[str]]:
    """Header and rows of the table of measured files; empty without `evaluate`."""
    figures = _figures(report).get("evaluate")
    if figures is None:
        return []
    first = figures["files"][0]
    metric = Metric.of(report)
    table = [
        [
            "file",
            "params",
            "MACs",
            "bytes",
            f"test {metric.label}",
            _closeness(report),
            "latency, ms (quartiles)",
        ]
    ]
    for row in figures["files"]:
        table.append(
            [
                row["name"],
                _share(row["params"], first["params"]),
                _share(row["macs"], first["macs"]),
                _share(row["bytes"], first["bytes"]),
                metric.text(row[metric.key]),
                _close(row),
                _latency(row["latency"]),
            ]
        )
    return table


def to_markdown(report: dict[str, Any], *, picture: str | None = None) -> str:
    """The report as Markdown.

    Args:
        report: as `write_report` makes it.
        picture: file name of the plot beside it, or None.
    """
    sizes = report["dataset"]["sizes"]
    lines = [
        f"# {report['recipe']['name']}",
        "",
        f"Data: {report['dataset']['name']}, "
        + ", ".join(f"{count} {split}" for split, count in sizes.items())
        + f" images of shape {tuple(report['dataset']['image_shape'])}. "
        f"Seed {report['recipe']['seed']}. tfcompress {report['tfcompress']}.",
    ]
    table = file_table(report)
    if table:
        samples = _figures(report)["evaluate"]["files"][0]["samples"]
        lines += [
            "",
            "## Measured on the files",
            "",
            f"Test split ({samples} images), one file after the other, through "
            "LiteRT; latency of one image on one CPU thread unless the recipe says "
            "otherwise, all files in turn.",
            "",
            *_markdown(table),
            *_blessings(_figures(report)["evaluate"]),
        ]
    lines += ["", "## Stages", "", *_markdown(stage_table(report))]
    if picture:
        alt = "Every round over its MACs, and agreement during distillation"
        lines += ["", f"![{alt}]({picture})"]
    compressed = _figures(report).get("compress")
    if compressed is not None:
        lines += _compression(compressed, Metric.of(report))
    quantized = _figures(report).get("export_tflite", {}).get("auto")
    if quantized is not None:
        lines += _quantization(quantized)
    return "\n".join(lines) + "\n"


def _closeness(report: dict[str, Any]) -> str:
    """What tells how close a model is to the teacher."""
    if Metric.of(report).counts:
        return "agreement with teacher"
    return "squared error to teacher, relative"


def _close(figures: dict[str, Any]) -> str:
    if "agreement" in figures:
        return f"{100 * figures['agreement']:.2f} %"
    return f"{figures['divergence']:.4f}"


def _blessings(figures: dict[str, Any]) -> list[str]:
    """Which files hold what was asked of them; nothing where nothing was."""
    if "thresholds" not in figures:
        return []
    limits = ", ".join(
        f"{key} {value:g}" for key, value in figures["thresholds"].items()
    )
    lines = ["", f"Asked of the files: {limits}.", ""]
    for name, reasons in figures["failures"].items():
        verdict = f"NOT blessed: {'; '.join(reasons)}" if reasons else "blessed"
        lines.append(f"- {name}: {verdict}")
    return lines


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return {stage["stage"]: stage["figures"] for stage in report["stages"]}


def _share(value: int, first: int) -> str:
    if value == first:
        return f"{value:,}"
    return f"{value:,} ({first / max(value, 1):.2f}x less)"


def stage_table(report: dict[str, Any]) -> list[list[str]]:
    """Header and rows of the table of stages: what each did to cost and accuracy."""
    latency, metric = _latencies(report), Metric.of(report)
    table = [
        [
            "stage",
            "params",
            "MACs",
            "weight bytes",
            f"validation {metric.label}",
            _closeness(report),
            "latency, ms",
            "seconds",
        ]
    ]
    for stage in report["stages"]:
        before = stage["figures"].get("before")
        after = stage["figures"].get("after")
        if stage["stage"] == "export_tflite":
            table.append(_export_row(report, stage))
            continue
        cells = [stage["stage"]]
        for key in ("params", "macs", "bytes"):
            cells.append(_change(before, after, key, "{:,}"))
        cells.append(_change(before, after, metric.key, "{:.4f}"))
        cells.append(_change(before, after, metric.closeness, "{:.4f}"))
        cells.append(_stage_latency(stage["stage"], latency))
        cells.append(f"{stage['seconds']:.1f}")
        table.append(cells)
    return table


def _export_row(report: dict[str, Any], stage: dict[str, Any]) -> list[str]:
    """What export did to cost, accuracy and latency: float32 -> the others."""
    measured = _figures(report).get("evaluate", {}).get("files", [])
    model = stage["figures"]["model"]
    names = [f"{model} {name}" for name in stage["figures"]["bytes"]]
    rows = [row for row in measured if row["name"] in names]
    sizes = " -> ".join(f"{size:,}" for size in stage["figures"]["bytes"].values())
    metric = Metric.of(report)
    return [
        stage["stage"],
        f"{rows[0]['params']:,}" if rows else "",
        f"{rows[0]['macs']:,}" if rows else "",
        f"{sizes} (files)",
        " -> ".join(f"{row[metric.key]:.4f}" for row in rows) + " (test)" * bool(rows),
        " -> ".join(f"{row[metric.closeness]:.4f}" for row in rows),
        " -> ".join(_latency(row["latency"]) for row in rows),
        f"{stage['seconds']:.1f}",
    ]


def _latency(one: dict[str, float]) -> str:
    return f"{one['median_ms']:.3f} ({one['q1_ms']:.3f} to {one['q3_ms']:.3f})"


_OF_STAGE = {
    "teacher": (None, "teacher"),
    "distill": ("teacher", "student"),
    "compress": ("student", "compressed"),
}


def _latencies(report: dict[str, Any]) -> dict[str, str]:
    """Latency of each model's float32 file, as text."""
    found = {}
    for row in _figures(report).get("evaluate", {}).get("files", []):
        if row["name"].endswith(" float32"):
            found[row["model"]] = _latency(row["latency"])
    return found


def _stage_latency(stage: str, latency: dict[str, str]) -> str:
    before, after = _OF_STAGE.get(stage, (None, None))
    shown = [latency[name] for name in (before, after) if name in latency]
    return " -> ".join(shown)


def _change(before: Any, after: Any, key: str, form: str) -> str:
    values = [side[key] for side in (before, after) if side and key in side]
    return " -> ".join(form.format(value) for value in values)


def _compression(figures: dict[str, Any], metric: Metric) -> list[str]:
    limits = ", ".join(f"{k} <= {100 * v:.1f} %" for k, v in figures["target"].items())
    verdict = "met" if figures["target_met"] else "NOT met"
    rounds = [
        [
            "round",
            "budget",
            "MACs",
            f"{metric.label}: factorized",
            "batch norm recalibrated",
            "fine-tuned",
            "kept",
        ]
    ]
    for index, entry in enumerate(figures["rounds"], start=1):
        budget = ", ".join(f"{k} {100 * v:.1f} %" for k, v in entry["budget"].items())
        steps = ("factorized", "recalibrated", "fine_tuned")
        rounds.append(
            [
                str(index),
                budget,
                _share(entry["after"]["macs"], entry["dense"]["macs"]),
                *(f"{entry[step][metric.key]:.4f}" for step in steps),
                "yes" if entry["accepted"] else f"no: {entry['reason']}",
            ]
        )
    layers = [["layer", "kind", "ranks", "params", "MACs", "left alone because"]]
    for row in figures["layers"]:
        if not row["dense"]["params"]:
            continue
        layers.append(
            [
                f"`{row['name']}`",
                row["kind"],
                "x".join(map(str, row["ranks"])) if row["ranks"] else "",
                _arrow(row["dense"]["params"], row["cost"]["params"]),
                _arrow(row["dense"]["macs"], row["cost"]["macs"]),
                row["reason"] or "",
            ]
        )
    hidden = sum(1 for row in figures["layers"] if not row["dense"]["params"])
    return [
        "",
        f"## Compression (target {limits}: {verdict})",
        "",
        *_markdown(rounds),
        "",
        "### Layers",
        "",
        *_markdown(layers),
        "",
        f"And {hidden} layers without weights, left alone; `report.json` lists them.",
    ]


def _quantization(figures: dict[str, Any]) -> list[str]:
    """What was tried for the file "auto", and which layers int8 costs most."""
    trials = [["method", "validation accuracy", "drop", "bytes", "chosen"]]
    for trial in figures["trials"]:
        trials.append(
            [
                trial["method"],
                f"{trial['accuracy']:.4f}",
                f"{trial['drop']:+.4f}",
                f"{trial['bytes']:,}",
                "yes" if trial["method"] == figures["chosen"] else "",
            ]
        )
    verdict = "limit met" if figures["met"] else "limit NOT met"
    lines = ["", f"## Quantization ({verdict})", "", *_markdown(trials)]
    if figures["layers"]:
        layers = [["layer", "error of int8", "added in this layer"]]
        layers += [
            [f"`{one['layer']}`", f"{one['relative']:.4f}", f"{one['added']:+.4f}"]
            for one in figures["layers"]
        ]
        lines += ["", "### Layers, the worst first", "", *_markdown(layers)]
    return lines


def _arrow(old: int, new: int) -> str:
    return f"{old:,}" if old == new else f"{old:,} -> {new:,}"


def _markdown(table: list[list[str]]) -> list[str]:
    head, *rows = table
    rule = ["---"] * len(head)
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]
