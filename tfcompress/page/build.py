"""The page itself: the template filled in, plotly's script in it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfcompress.errors import RunFolderError, TfcompressError
from tfcompress.files import write_atomically
from tfcompress.metric import Metric
from tfcompress.page.load import Run, load_runs
from tfcompress.page.view import comparison, describe, differences

_NEEDED = ("jinja2", "plotly")


def write_page(
    folders: Sequence[str | os.PathLike], path: str | os.PathLike
) -> list[Run]:
    """Writes one HTML file that shows run folders; it needs nothing beside it.

    Args:
        folders: run folders, in the order of the page.
        path: the file to write; replaced only by a whole one.

    Returns:
        The runs, as they were read.

    Raises:
        RunFolderError: a folder that is no run folder, or a damaged report.
        TfcompressError: the file cannot be written, or the extra `report` is missing.

    Example:
        >>> runs = write_page(["runs/digits"], "report.html")
        >>> len(runs)
        1
    """
    path = Path(path)
    runs = load_runs([Path(folder) for folder in folders])
    page = build_page(runs)
    try:
        write_atomically(path, page)
    except OSError as error:
        raise TfcompressError(
            f"'{path}' cannot be written: {error.strerror or error}."
        ) from error
    return runs


def build_page(runs: Sequence[Run]) -> str:
    """The page as text; the same runs give the same page.

    Args:
        runs: one or more.

    Raises:
        RunFolderError: a report that lacks what every report holds.
        TfcompressError: no run, or the extra `report` is missing.

    Returns:
        One HTML document.

    Example:
        >>> build_page(load_runs(["runs/digits"])).splitlines()[0]
        '<!doctype html>'
    """
    if not runs:
        raise TfcompressError("A page needs at least one run folder.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise TfcompressError(
            f"The page needs {' and '.join(missing)}: install tfcompress[report]."
        )
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfcompress.page"),
        # Names come from recipes and data sets that others may have written.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    several = len(runs) > 1
    return environment.get_template("report.html").render(
        title="tfcompress: " + ", ".join(run.label for run in runs),
        runs=[_shown(run) for run in runs],
        comparison=comparison(runs) if several else [],
        differences=differences(runs) if several else [],
        charts=_over_files(runs) if several else [],
        plotly=get_plotlyjs(),
    )


def _shown(run: Run) -> dict[str, Any]:
    """What the template shows of a run, charts included."""
    from tfcompress.page import charts

    try:
        label = Metric.of(run.report).label
        return describe(run) | {
            "over_files": _over_files([run]),
            "over_rounds": [
                (title, charts.over_rounds(run, axis))
                for axis, title in (
                    ("macs", f"Validation {label} over MACs"),
                    ("latency", f"Validation {label} over latency"),
                )
            ],
            "curves": [
                ("Agreement with the teacher", charts.curves(run, "agreement")),
                ("Divergence or loss, logarithmic", charts.curves(run, "loss")),
            ],
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunFolderError(
            f"The report of run '{run.label}' is damaged or of another version: "
            f"{type(error).__name__} {error}. Run its recipe anew."
        ) from error


def _over_files(runs: Sequence[Run]) -> list[tuple[str, Any]]:
    from tfcompress.page import charts

    label = Metric.of(runs[0].report).label
    return [
        (title, charts.over_files(runs, axis))
        for axis, title in (
            ("macs", f"Test {label} over MACs"),
            ("latency", f"Test {label} over latency"),
        )
    ]
