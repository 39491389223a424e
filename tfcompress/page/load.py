"""Run folders as data: `report.json`, and the images beside it."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfcompress.errors import RunFolderError
from tfcompress.stages.disagreement import FILE as DISAGREEMENTS

_DISAGREEMENT_KEYS = {"samples", "total", "counts", "images"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        label: names the run on the page; no two runs of a page share one.
        report: what `report.json` holds.
        disagreements: images that a file takes for another class than the teacher
            does, or None where the run kept none.

    Example:
        >>> run = load_runs(["runs/digits"])[0]
        >>> run.report["dataset"]["name"]
        'digits'
    """

    label: str
    report: dict[str, Any]
    disagreements: dict[str, Any] | None

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Figures by stage."""
        return {one["stage"]: one["figures"] for one in self.report["stages"]}


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reads run folders, in the given order.

    Args:
        folders: as `tfcompress run` makes them; each needs a `report.json`.

    Raises:
        RunFolderError: no folder, no report in it, or a damaged one.

    Returns:
        One `Run` for each folder.

    Example:
        >>> sorted(load_runs(["runs/digits"])[0].report)
        [...'recipe'...'stages'...]
    """
    places = [Path(folder) for folder in folders]
    reports = [_report(place) for place in places]
    return [
        Run(label, report, _disagreements(place))
        for label, report, place in zip(
            _labels(reports, places), reports, places, strict=True
        )
    ]


def _report(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise RunFolderError(f"There is no run folder '{folder}'.")
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file: name the run folder it lies in.")
    path = folder / "report.json"
    if not path.is_file():
        hint = (
            "the run has not ended; `tfcompress run` goes on with it."
            if (folder / "run.json").is_file()
            else "it is no run folder."
        )
        raise RunFolderError(f"Folder '{folder}' holds no report.json: {hint}")
    report = _json(path)
    stages = report.get("stages")
    if (
        not isinstance(stages, list)
        or not all(
            isinstance(one, dict)
            and isinstance(one.get("stage"), str)
            and isinstance(one.get("figures"), dict)
            for one in stages
        )
        or not isinstance(report.get("recipe"), dict)
    ):
        raise RunFolderError(f"'{path}' is no report of a run: make it anew.")
    return report


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    except OSError as error:
        raise RunFolderError(f"'{path}' cannot be read: {error.strerror}.") from error
    if not isinstance(data, dict):
        raise RunFolderError(f"'{path}' is damaged: it holds no JSON object.")
    return data


def _disagreements(folder: Path) -> dict[str, Any] | None:
    found = sorted(folder.glob(f"*-evaluate/{DISAGREEMENTS}"))
    if not found:
        return None
    data = _json(found[-1])
    if not set(data) >= _DISAGREEMENT_KEYS:
        raise RunFolderError(f"'{found[-1]}' is damaged: run the recipe anew.")
    return data


def _labels(reports: list[dict[str, Any]], places: list[Path]) -> list[str]:
    """The recipes' names; of equal ones with the folder, then with a number."""
    names = [str(report["recipe"].get("name", "run")) for report in reports]
    counts = collections.Counter(names)
    names = [
        f"{name} ({place.resolve().name})" if counts[name] > 1 else name
        for name, place in zip(names, places, strict=True)
    ]
    counts = collections.Counter(names)
    return [
        f"{name} #{names[: i + 1].count(name)}" if counts[name] > 1 else name
        for i, name in enumerate(names)
    ]
