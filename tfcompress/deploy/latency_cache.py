"""The file that keeps measured times, for several machines at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tfcompress.deploy.single_layer import LatencyError
from tfcompress.files import write_atomically

_FORMAT = "tfcompress latency table 1"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Time of one call of one layer at batch 1, in milliseconds.

    Attributes:
        median_ms, q1_ms, q3_ms: quantiles over the samples, as measured.
        reference_ms: median of the reference layer in the same session: it tells how
            fast the machine was.
        runs: number of samples.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    reference_ms: float
    runs: int


def cpu_model() -> str:
    """Name of the processor, as the system tells it.

    Example:
        >>> cpu_model()  # doctest: +SKIP
        'Cortex-A76'
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def conditions(num_threads: int, clock: str) -> str:
    """What times depend on beside the layer: times of other conditions are not used."""
    return (
        f"{cpu_model()}, {os.cpu_count()} cores | LiteRT {version('ai-edge-litert')} | "
        f"{num_threads} threads | {clock} time"
    )


class LatencyCache:
    """Times measured under one set of conditions, in memory and in a file.

    Args:
        path: JSON file, made at the first `add`; None for memory alone.
        section: the conditions; what the file holds under others stays there.

    Attributes:
        entries: key -> `Entry`.
        reference_ms: the reference layer's time when the section was begun, or None:
            all times are scaled to it.

    Raises:
        LatencyError: the file is no latency table.
    """

    def __init__(self, path: str | os.PathLike | None, section: str) -> None:
        self.path = None if path is None else Path(path)
        self.section = section
        self.entries: dict[str, Entry] = {}
        self.reference_ms: float | None = None
        self._merge(self._read())

    def milliseconds(self, entry: Entry) -> float:
        """Time of an entry at the speed the machine had when the section was begun."""
        reference = self.reference_ms or entry.reference_ms
        return entry.median_ms * reference / entry.reference_ms

    def add(self, entries: Mapping[str, Entry]) -> None:
        """Adds entries of one session, and writes the file whole."""
        # Read again: another process may have written since. Entries carry the speed
        # they were measured at, so those of several processes mix.
        sections = self._read()
        self._merge(sections)
        self.entries |= entries
        if self.reference_ms is None:
            self.reference_ms = next(iter(entries.values())).reference_ms
        if self.path is None:
            return
        sections[self.section] = {
            "reference_ms": self.reference_ms,
            "entries": {k: dataclasses.asdict(e) for k, e in self.entries.items()},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {"format": _FORMAT, "sections": sections}
        write_atomically(self.path, json.dumps(data, indent=1) + "\n")

    def _merge(self, sections: Mapping[str, Any]) -> None:
        section = sections.get(self.section)
        if section is None:
            return
        known = {key: Entry(**entry) for key, entry in section["entries"].items()}
        self.entries = known | self.entries
        if self.reference_ms is None:
            self.reference_ms = section["reference_ms"]

    def _read(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise ValueError(f"its format is {data['format']!r}")
            for section in data["sections"].values():
                _check(section)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # Not written over: the path may be that of another file by mistake.
            raise LatencyError(
                f"The file is no latency table ({type(error).__name__}: {error}); "
                f"delete it or name another. Received: {self.path}"
            ) from error
        return data["sections"]


def _check(section: Mapping[str, Any]) -> None:
    times = [section["reference_ms"]]
    for entry in section["entries"].values():
        entry = Entry(**entry)
        times += [entry.median_ms, entry.reference_ms]
    if not all(isinstance(time, float) and time > 0.0 for time in times):
        raise ValueError("a time in it is no positive number")
