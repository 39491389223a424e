"""The benchmark results that rules read, condensed, as data of the package.

`benchmarks/results` is not installed. `python -m benchmarks.evidence` copies what the
rules read of it into `tfcompress/evidence/results`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from tfcompress.errors import TfcompressError

# What is kept of each result: fields of its cells, or of the rows of its data.
KEPT: dict[str, tuple[str, ...]] = {
    "iterative_vs_oneshot": ("accuracy_before", "accuracy", "target_met", "validation"),
    "weakened_rank": ("accuracy", "kl", "macs"),
    "tasks": ("before", "after", "macs", "higher_is_better"),
    "patience": ("accuracy", "kl", "teacher_accuracy"),
    "distillation_runs": ("accuracy", "after"),
    "warm_start": ("accuracy", "kl"),
    "evbmf_ranks": ("planted", "found", "first", "again", "kept"),
    "layer_errors": ("weights", "outputs"),
    "delivered_speedup": (
        *("network", "selector", "num_threads", "dense", "factorized"),
        *("mac_ratio", "delivered"),
    ),
    "channel_alignment": ("kernel", "channels", "median_ms", "q1_ms", "q3_ms", "runs"),
    "data_aware": (),
}
_DIGITS = 6


class EvidenceError(TfcompressError, ValueError):
    """A result or a report that cannot be read."""


def condensed(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's result without what no rule reads, its numbers rounded.

    Args:
        name: of the result.
        document: as the benchmark wrote it.

    Returns:
        A document of the same form: rules read both alike.
    """
    kept = KEPT[name]

    def part(row: Mapping[str, Any]) -> dict[str, Any]:
        names = kept or row
        return {key: _rounded(row[key]) for key in names if key in row}

    brief: dict[str, Any] = {"machine": document["machine"]}
    if "cells" in document:
        brief["cells"] = {key: part(cell) for key, cell in document["cells"].items()}
    else:
        brief["data"] = [part(row) for row in document["data"]]
    return brief


def find_result(name: str) -> dict[str, Any] | None:
    """A condensed result of the package, or None where the benchmark has none yet.

    Raises:
        EvidenceError: the file is no JSON.
    """
    file = resources.files("tfcompress.evidence").joinpath("results", f"{name}.json")
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvidenceError(
            f"The package's result '{name}.json' is no JSON: install tfcompress anew."
        ) from error


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
