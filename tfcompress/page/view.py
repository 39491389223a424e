"""What the page says of a run, as plain data for the template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from tfcompress.evidence import claims_of
from tfcompress.metric import Metric
from tfcompress.page.load import Run
from tfcompress.page.words import milliseconds, percent, percent_range, short, times
from tfcompress.report import file_table, stage_table

_COSTS = ("macs", "bytes", "latency")


def overview(run: Run) -> dict[str, Any]:
    """The headline of a run as plain numbers: before and after.

    Args:
        run: as `load_runs` reads it.

    Returns:
        "measured_on": "files" or, without the stage `evaluate`, "models"; "before" and
        "after", each with "name", the metric ("accuracy" of a classifier), "samples",
        "macs", "params", "bytes" and,
        of files, "agreement" and "latency". Sides that are not known are None.

    Example:
        >>> overview(load_runs(["runs/digits"])[0])["measured_on"]
        'files'
    """
    rows = file_rows(run)
    if rows:
        return {"measured_on": "files", "before": rows[0], "after": rows[-1]}
    sides = [
        one["figures"]["after"] | {"name": one["stage"]}
        for one in run.report["stages"]
        if isinstance(one["figures"].get("after"), dict)
    ]
    ends = (sides[0], sides[-1]) if sides else (None, None)
    return {"measured_on": "models", "before": ends[0], "after": ends[1]}


def file_rows(run: Run) -> list[dict[str, Any]]:
    """Figures of every measured file; the teacher's first."""
    return run.figures.get("evaluate", {}).get("files", [])


def headlines(run: Run) -> list[dict[str, Any]]:
    """One set of cards for each file that is not the teacher's."""
    rows = file_rows(run)
    if rows:
        pairs = [(rows[0], row) for row in rows[1:] or rows]
    else:
        found = overview(run)
        pairs = [(found["before"], found["after"])] if found["before"] else []
    failures = run.figures.get("evaluate", {}).get("failures", {})
    return [
        {
            "name": after["name"],
            "cards": _cards(run, before, after),
            "failures": failures.get(after["name"]),
        }
        for before, after in pairs
    ]


def _cards(
    run: Run, before: dict[str, Any], after: dict[str, Any]
) -> list[dict[str, str]]:
    metric = Metric.of(run.report)
    costs = [_card(key, before, after) for key in _COSTS]
    return [_metric_card(metric, before, after), *costs]


def _metric_card(
    metric: Metric, before: dict[str, Any], after: dict[str, Any]
) -> dict[str, str]:
    old, new = before.get(metric.key), after.get(metric.key)
    card = dict.fromkeys(("before", "change", "note"), "")
    card |= {"title": metric.title, "after": "not measured"}
    if old is None or new is None:
        return card
    ranges = [""]
    if metric.counts:
        ends = ((old, before), (new, after))
        ranges = [percent_range(share, side.get("samples")) for share, side in ends]
    change = metric.change(old, new)
    return card | {
        "before": metric.text(old),
        "after": metric.text(new),
        "change": change,
        "note": f"95 %: {ranges[0]} → {ranges[1]}" if all(ranges) else "",
    }


def _card(key: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    old, new = before.get(key), after.get(key)
    card = dict.fromkeys(("before", "change", "note"), "")
    card |= {"title": _TITLES[key], "after": "not measured"}
    if old is None or new is None:
        return card
    if key == "latency":
        old, new = old["median_ms"], new["median_ms"]
        ends = [
            f"{x[key]['q1_ms']:.3g} to {x[key]['q3_ms']:.3g}" for x in (before, after)
        ]
        return card | {
            "before": milliseconds(old),
            "after": milliseconds(new),
            "change": times(old, new, less="faster", more="slower"),
            "note": f"quartiles: {ends[0]} → {ends[1]}",
        }
    less, more = ("smaller", "larger") if key == "bytes" else ("fewer", "more")
    unit = "B" if key == "bytes" else ""
    return card | {
        "before": short(old, unit),
        "after": short(new, unit),
        "change": times(old, new, less=less, more=more),
        "note": f"{old:,} → {new:,}",
    }


_TITLES = {
    "macs": "MACs",
    "bytes": "Bytes",
    "latency": "Latency",
}


def describe(run: Run) -> dict[str, Any]:
    """Everything of one run but the charts."""
    report, figures = run.report, run.figures
    compressed = figures.get("compress") or figures.get("factorize") or {}
    return {
        "label": run.label,
        "headlines": headlines(run),
        "on_files": bool(file_rows(run)),
        "thresholds": figures.get("evaluate", {}).get("thresholds"),
        "files": file_table(report),
        "stages": stage_table(report),
        "target": _limits(compressed.get("target")),
        "target_met": compressed.get("target_met"),
        "metric": Metric.of(report).label,
        "counts": Metric.of(report).counts,
        "rounds": _rounds(compressed, Metric.of(report)),
        "layers": _layers(compressed),
        "hidden": sum(not x["dense"]["params"] for x in compressed.get("layers", [])),
        "disagreements": run.disagreements,
        "quantized": _quantized(figures),
        "compared": figures.get("evaluate", {}).get("layer_errors", {}).get("samples"),
        "trials": figures.get("export_tflite", {}).get("auto", {}).get("trials", []),
        "chosen": figures.get("export_tflite", {}).get("auto", {}).get("chosen"),
        "recipe": yaml.safe_dump(report["recipe"], sort_keys=False),
        "facts": _facts(report),
        "claims": [
            [
                one.claim.title,
                one.claim.paper.short,
                ", ".join(one.uses),
                one.verdict.outcome,
                one.verdict.figures,
            ]
            for one in claims_of(report)
        ],
        "hashes": [
            (one["stage"], name, digest)
            for one in report["stages"]
            for name, digest in one.get("hashes", {}).items()
        ],
    }


def _rounds(figures: dict[str, Any], metric: Metric) -> list[dict[str, Any]]:
    rows = []
    for index, entry in enumerate(figures.get("rounds", []), start=1):
        rows.append(
            {
                "number": index,
                "budget": _limits(entry.get("budget")),
                "macs": f"{entry['after']['macs']:,}",
                "steps": [
                    metric.text(entry[step][metric.key])
                    for step in ("factorized", "recalibrated", "fine_tuned")
                ],
                "kept": entry["accepted"],
                "reason": entry["reason"],
            }
        )
    return rows


def _limits(budget: dict[str, float] | None) -> str:
    """A budget in words, as `MACs 50.0 %`."""
    return ", ".join(
        f"{_WORDS.get(name, name)} {100 * share:.1f} %"
        for name, share in (budget or {}).items()
    )


_WORDS = {"macs": "MACs"}


def _layers(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Layers with weights: MACs as shares of the largest, ranks, sensitivity."""
    found = [row for row in figures.get("layers", []) if row["dense"]["params"]]
    most = max((row["dense"]["macs"] for row in found), default=0) or 1
    rounds = figures.get("rounds", [])
    # Of the first round: those of later ones are of layers that are factors already.
    sensitivity = (rounds[0].get("sensitivity") or {}) if rounds else {}
    return [
        {
            "name": row["name"],
            "kind": row["kind"],
            "before": row["dense"]["macs"],
            "after": row["cost"]["macs"],
            "before_share": _share(row["dense"]["macs"], most),
            "after_share": _share(row["cost"]["macs"], most),
            "ranks": "×".join(map(str, row["ranks"])) if row["ranks"] else "",
            "changed": bool(row["ranks"]),
            "reason": row["reason"] or "",
            "sensitivity": sensitivity.get(row["name"]),
        }
        for row in found
    ]


def _quantized(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Errors of the layers of each quantized file, in the order of execution."""
    found = dict(figures.get("evaluate", {}).get("layer_errors", {}).get("files", {}))
    auto = figures.get("export_tflite", {}).get("auto", {})
    if auto.get("layers"):
        found["int8, the first trial of auto"] = auto["layers"]
    tables = []
    for name, errors in found.items():
        if isinstance(errors, str):
            tables.append({"name": name, "reason": errors, "rows": []})
            continue
        most = max((one["relative"] for one in errors), default=0.0) or 1.0
        none = {"op": "", "dtype": ""}
        rows = [none | one | {"share": _share(one["relative"], most)} for one in errors]
        tables.append({"name": name, "reason": None, "rows": rows})
    return tables


def _share(value: float, most: float) -> str:
    """Percent for a style, of at least a line that can be seen."""
    return f"{max(100 * value / most, 0.3 if value else 0):.2f}"


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    data, recipe = report.get("dataset", {}), report["recipe"]
    sizes = data.get("sizes", {})
    facts = [
        ("data", str(data.get("name", "not known"))),
        ("images", "×".join(map(str, data.get("image_shape", [])))),
        ("classes", str(data.get("classes", ""))),
        ("split", ", ".join(f"{count:,} {name}" for name, count in sizes.items())),
        ("data fingerprint", str(data.get("fingerprint", ""))),
        ("seed", str(recipe.get("seed", ""))),
        ("tfcompress", str(report.get("tfcompress", ""))),
        *((name, str(v)) for name, v in report.get("packages", {}).items()),
        ("python", str(report.get("python", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def comparison(runs: Sequence[Run]) -> list[list[str]]:
    """Header and rows: runs side by side, a column each.

    Args:
        runs: one or more.
    """
    found = [overview(run) for run in runs]
    table = [["", *(run.label for run in runs)]]

    def row(title: str, cells: Iterable[str]) -> None:
        table.append([title, *cells])

    row("file", (x["after"]["name"] if x["after"] else "none" for x in found))
    metrics = [Metric.of(run.report) for run in runs]
    cells = [
        [_cell(card) for card in _cards(run, x["before"], x["after"])]
        if x["after"]
        else [""] * (1 + len(_COSTS))
        for run, x in zip(runs, found, strict=True)
    ]
    first, *costs = zip(*cells, strict=True)
    if len(set(metrics)) == 1:
        row(metrics[0].title, first)
    else:
        named = zip(metrics, first, strict=True)
        row("metric", (f"{metric.label}: {cell}" for metric, cell in named))
    for title, of_cost in zip(_TITLES.values(), costs, strict=True):
        row(title, of_cost)
    agreement = [(x["after"] or {}).get("agreement") for x in found]
    row("Agreement", ("" if x is None else percent(x) for x in agreement))
    verdicts = [
        run.figures.get("compress", run.figures.get("factorize", {})).get("target_met")
        for run in runs
    ]
    row("target met", ({True: "yes", False: "NO"}.get(x, "") for x in verdicts))
    row("data", (str(run.report.get("dataset", {}).get("name", "")) for run in runs))
    row("seed", (str(run.report["recipe"].get("seed", "")) for run in runs))
    return table


def _cell(card: dict[str, str]) -> str:
    text = " → ".join(x for x in (card.get("before"), card.get("after")) if x)
    return f"{text} ({card['change']})" if card.get("change") else text


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """Header and rows: the options in which the recipes of several runs differ."""
    flat = [dict(_flat(run.report["recipe"])) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key != "name")
    rows = [[key, *(one.get(key, "") for one in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return [["option", *(run.label for run in runs)], *rows] if rows else []


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(x, dict) for x in value):
        # Stages: named by what they are.
        for item in value:
            yield from _flat(item, path)
    else:
        yield path, str(value)
