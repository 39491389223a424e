"""The page's charts, as plotly's JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from tfcompress.metric import Metric
from tfcompress.page.load import Run
from tfcompress.page.view import file_rows
from tfcompress.page.words import interval

# Distinct on light and on dark ground, and for most colour-blind eyes.
COLOURS = ("#3a86d1", "#e07b39", "#2a9d8f", "#b5539c", "#8a8f98", "#c9a227")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star")
_KEPT, _BACK, _QUIET = COLOURS[0], "#d1495b", COLOURS[4]


def over_rounds(run: Run, axis: str) -> dict[str, Any] | None:
    """The validation metric of every round, rolled back ones included.

    Args:
        run: with the stage `compress`.
        axis: "macs" or "latency".

    Returns:
        A figure, or None where the run holds no such data.
    """
    compress = run.figures.get("compress", {})
    entries = compress.get("rounds", [])
    start = compress.get("before", {})
    places = _macs(run) if axis == "macs" else _latencies(run)
    metric = Metric.of(run.report)
    if not entries or metric.key not in start or len(places) != len(entries) + 1:
        return None
    kept, back, steps = [(places[0], start, "before")], [], []
    for index, (place, entry) in enumerate(zip(places[1:], entries, strict=True)):
        after = entry[entry.get("kept", "fine_tuned")]
        (kept if entry["accepted"] else back).append(
            (place, after, f"round {index + 1}")
        )
        steps.append((place, entry["factorized"], f"round {index + 1}"))
    points = partial(_points, metric=metric)
    traces = [
        points(kept, "kept", _KEPT, mode="lines+markers", symbol="circle"),
        points(steps, "before fine-tuning", _QUIET, symbol="triangle-down", bars=False),
    ]
    if back:
        traces.append(points(back, "rolled back", _BACK, symbol="x"))
    title = "MACs" if axis == "macs" else "latency of one image, ms"
    figure = _figure(traces, title, f"validation {metric.axis}")
    limit = compress.get("target", {}).get(axis)
    if limit:
        figure.add_vline(limit * places[0][1], line_dash="dash", line_color=_QUIET)
    return _data(figure)


Place = tuple[float, float, float]


def _macs(run: Run) -> list[Place]:
    compress = run.figures.get("compress", {})
    counts = [compress.get("before", {}).get("macs")]
    counts += [entry["after"]["macs"] for entry in compress.get("rounds", [])]
    return [(x, x, x) for x in counts if x is not None]


def _latencies(run: Run) -> list[Place]:
    """Quartiles and median of the model before the rounds, and of each round's."""
    found = run.figures.get("evaluate", {}).get("rounds") or {}
    rows = [found.get("before"), *found.get("rounds", [])]
    times = [row["latency"] for row in rows if row]
    return [(one["q1_ms"], one["median_ms"], one["q3_ms"]) for one in times]


def _points(
    points: Sequence[tuple[Place, dict[str, Any], str]],
    name: str,
    colour: str,
    *,
    metric: Metric,
    symbol: str,
    mode: str = "markers",
    bars: bool = True,
) -> go.Scatter:
    shown = [metric.scale * scores[metric.key] for _, scores, _ in points]
    options: dict[str, Any] = {}
    if bars:
        if metric.counts:
            options["error_y"] = _bars(
                shown, [_ends(s["accuracy"], s.get("samples")) for _, s, _ in points]
            )
        middles = [place[1] for place, _, _ in points]
        options["error_x"] = _bars(middles, [(p[0], p[2]) for p, _, _ in points])
    return go.Scatter(
        x=[place[1] for place, _, _ in points],
        y=shown,
        name=name,
        mode=mode,
        text=[html.escape(text) for _, _, text in points],
        hovertemplate="%{text}<br>%{x:,.4~g}<br>"
        + ("%{y:.2f} %" if metric.share else "%{y:.4f}"),
        marker={"color": colour, "symbol": symbol, "size": 9},
        line={"color": colour},
        **options,
    )


def _ends(share: float, count: Any) -> tuple[float, float]:
    if not count:
        return 100 * share, 100 * share
    low, high = interval(share, count)
    return 100 * low, 100 * high


def _bars(middles: Sequence[float], ends: Sequence[tuple[float, float]]) -> dict:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - mid for mid, (_, high) in zip(middles, ends, strict=True)],
        "arrayminus": [mid - low for mid, (low, _) in zip(middles, ends, strict=True)],
        "thickness": 1,
        "width": 3,
    }


def over_files(runs: Sequence[Run], axis: str) -> dict[str, Any] | None:
    """The test metric of the measured files: a colour for each run, or file of one run.

    Args:
        runs: one or more.
        axis: "macs" or "latency".

    Returns:
        A figure, or None where no run has measured files, or runs of other metrics.
    """
    metrics = {Metric.of(run.report) for run in runs}
    if len(metrics) != 1:
        return None
    (metric,) = metrics
    groups: dict[str, list[tuple[Place, dict[str, Any], str]]] = {}
    for run in runs:
        for row in file_rows(run):
            time = row["latency"]
            place = (time["q1_ms"], time["median_ms"], time["q3_ms"])
            if axis == "macs":
                place = (row["macs"],) * 3
            name = row["name"] if len(runs) == 1 else run.label
            groups.setdefault(name, []).append((place, row, row["name"]))
    traces = [
        _points(
            points,
            html.escape(name),
            COLOURS[index % len(COLOURS)],
            metric=metric,
            symbol=_SYMBOLS[index % len(_SYMBOLS)],
        )
        for index, (name, points) in enumerate(groups.items())
    ]
    if not traces:
        return None
    title = "MACs" if axis == "macs" else "latency of one image, ms"
    return _data(_figure(traces, title, f"test {metric.axis}"))


_KINDS = {
    "agreement": ("agreement", "accuracy"),
    "loss": ("kl", "divergence", "loss"),
}


def curves(run: Run, kind: str) -> dict[str, Any] | None:
    """Training and validation curves of every stage that trained.

    Args:
        run: any.
        kind: "agreement" (with the teacher; accuracy where there is none) or "loss".

    Returns:
        A figure, or None where no stage kept its history.
    """
    traces = []
    for index, (name, history) in enumerate(_histories(run)):
        key = next((key for key in _KINDS[kind] if history.get(key)), None)
        if key is None:
            continue
        colour = COLOURS[index % len(COLOURS)]
        epochs = len(history[key])
        shown = html.escape(f"{name}: {key}")
        traces.append(_line(range(1, epochs + 1), history[key], shown, colour, 0.55))
        checked = history.get(f"val_{key}") or []
        if checked:
            every = max(epochs // len(checked), 1)
            places = [every * (i + 1) for i in range(len(checked))]
            shown += ", validation"
            traces.append(_line(places, checked, shown, colour, 1.0, dash="dot"))
    if not traces:
        return None
    title = "agreement or accuracy" if kind == "agreement" else "divergence or loss"
    figure = _figure(traces, "epoch", title)
    if kind == "loss":
        figure.update_yaxes(type="log", dtick=1)
    return _data(figure)


def _histories(run: Run) -> list[tuple[str, dict[str, list[float]]]]:
    found = []
    for stage, figures in run.figures.items():
        if isinstance(figures.get("history"), dict):
            found.append((stage, figures["history"]))
        found += [
            (f"{stage}, round {index}", entry["history"])
            for index, entry in enumerate(figures.get("rounds", []), start=1)
            if isinstance(entry, dict) and entry.get("history")
        ]
    return found


def _line(
    x: Any, y: Any, name: str, colour: str, opacity: float, dash: str = "solid"
) -> go.Scatter:
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode="lines",
        opacity=opacity,
        line={"color": colour, "dash": dash, "width": 1.6},
        hovertemplate="epoch %{x}: %{y:.4~g}",
    )


def _figure(traces: list[Any], x: str, y: str) -> go.Figure:
    # Colours of text and lines are the style sheet's: see `.chart` there.
    axis = {"automargin": True, "zeroline": False, "title": {"standoff": 8}}
    return go.Figure(
        data=traces,
        layout=go.Layout(
            template="none",
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            # On a phone the legend takes a line for each.
            height=310 + 18 * len(traces),
            margin={"l": 48, "r": 12, "t": 8, "b": 44},
            font={"family": "system-ui, sans-serif", "size": 12},
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            hoverlabel={"bgcolor": "#24292f", "font": {"color": "#ffffff"}},
            showlegend=True,
            xaxis=axis | {"title": {"text": x, "standoff": 8}, "nticks": 6},
            yaxis=axis | {"title": {"text": y, "standoff": 8}, "nticks": 6},
        ),
    )


def _data(figure: go.Figure) -> dict[str, Any]:
    return json.loads(figure.to_json())
