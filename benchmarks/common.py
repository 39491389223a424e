"""What the benchmarks share: timing, the machine they ran on, and writing results.

Benchmarks are run as modules from the root of the project, such as
`python -m benchmarks.delivered_speedup`, and import this one as `benchmarks.common`.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.files import write_atomically

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tfcompress", "tensorflow", "keras", "ai-edge-litert", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, over several repeats.

    Attributes:
        median, q1, q3: quantiles over the repeats.
        repeats: number of timed calls.
    """

    median: float
    q1: float
    q3: float
    repeats: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields as a plain dict, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.median:.3g} s ({self.q1:.3g} to {self.q3:.3g})"


def time_call(
    function: Callable[[], Any], *, repeats: int = 5, warmup: int = 1
) -> Timing:
    """Times one function; see `time_calls`."""
    return time_calls({"": function}, repeats=repeats, warmup=warmup)[""]


def time_calls(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1
) -> dict[str, Timing]:
    """Times functions in turn, so that drift of the machine's speed hits all alike.

    Args:
        functions: name -> function without arguments. Of what runs on another thread
            or device it must wait for the result.
        repeats: timed calls of each function.
        warmup: untimed calls of each function before the first timed one.

    Returns:
        name -> `Timing`, in the order given.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(
            *(float(q) for q in np.quantile(values, [0.5, 0.25, 0.75])),
            repeats=repeats,
        )
        for name, values in seconds.items()
    }


def machine() -> dict[str, Any]:
    """CPU model, cores and versions; nothing that tells whose machine it is."""
    # Imported here, so that timing alone needs no TensorFlow.
    from tfcompress.deploy import cpu_model

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def command() -> str:
    """The command that repeats this run, from the root of the project."""
    module = f"benchmarks.{Path(sys.argv[0]).stem}"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a plain text table: the first column to the left, others right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def write_result(
    name: str, data: Any, table_lines: Sequence[str], *, folder: Path = RESULTS
) -> None:
    """Prints a table, and writes `results/<name>.json` and `results/<name>.md`.

    Both files tell the command, the date and the machine.

    Args:
        name: of the benchmark.
        data: its figures, plain data.
        table_lines: the table as printed.
        folder: where to.
    """
    about = _about()
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"name": name, **about, "data": data}, indent=1)
    write_atomically(folder / f"{name}.json", document + "\n")
    write_table(name, table_lines, folder=folder)


def write_table(
    name: str, table_lines: Sequence[str], *, folder: Path = RESULTS
) -> None:
    """Prints a table, and writes it as `results/<name>.md`; see `write_result`."""
    about = _about()
    text = "\n".join(table_lines)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{key} {value}" for key, value in about["machine"].items())
    head = f"# {name}\n\n`{about['command']}`, {about['date']}; {versions}."
    page = f"{head}\n\n```\n{text}\n```\n"
    write_atomically(folder / f"{name}.md", page)


def _about() -> dict[str, Any]:
    return {
        "command": command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
    }
