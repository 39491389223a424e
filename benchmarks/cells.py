"""Grids of long experiments: each cell is saved as it ends, a stopped grid goes on.

Two processes can share a grid, one from each end (`--backwards`): on few cores that is
faster than one with all threads.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from benchmarks.common import RESULTS, machine, write_table
from tfcompress.files import write_atomically


def grid_parser(description: str) -> argparse.ArgumentParser:
    """What the command line of every grid understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="start no cell after")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--backwards", action="store_true", help="start from the end")
    return parser


def run_grid(
    name: str,
    description: str,
    keys_of: Callable[[int], Sequence[Sequence[Any]]],
    run_cell: Callable[..., dict[str, Any]],
    summarize: Callable[[Mapping[str, Any], Sequence[Any]], list[str]],
    *,
    settings: Mapping[str, Any],
) -> tuple[Cells, Sequence[Sequence[Any]]]:
    """The command line of a grid: runs what is missing, and writes its table.

    Args:
        name: of the files in `benchmarks/results/`.
        description: for `--help`.
        keys_of: all cells, in the order to run them, by the number of seeds.
        run_cell: runs a cell; takes the parts of its key.
        summarize: lines of the table, of the cells found and all keys.
        settings: see `Cells`.

    Returns:
        The cells and their keys.
    """
    arguments = grid_parser(description).parse_args()
    keys = keys_of(arguments.seeds)
    cells = Cells(RESULTS / f"{name}.json", settings=settings)

    def run(key: Sequence[Any]) -> dict[str, Any]:
        keras.backend.clear_session()
        return run_cell(*key)

    if not arguments.report:
        cells.run(keys, run, minutes=arguments.minutes, backwards=arguments.backwards)
    write_table(name, summarize(cells.found, keys))
    return cells, keys


class Cells:
    """Results by cell in one JSON file.

    Args:
        path: the file.
        settings: what all cells have in common; a file with other settings is
            refused, for its cells would not compare.

    Raises:
        SystemExit: a file with other settings.
    """

    def __init__(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = dict(settings)
        self.found: dict[str, dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        if self.path.exists():
            content = json.loads(self.path.read_text())
            if content["settings"] != self.settings:
                raise SystemExit(
                    f"{self.path.name} holds cells with other settings "
                    f"({content['settings']}, now {self.settings}): move it away."
                )
            self.found = content["cells"]

    @staticmethod
    def name(key: Sequence[Any]) -> str:
        """A cell's name in the file."""
        return " | ".join(str(part) for part in key)

    def run(
        self,
        keys: Sequence[Sequence[Any]],
        function: Callable[[Any], dict[str, Any]],
        *,
        minutes: float | None = None,
        backwards: bool = False,
    ) -> None:
        """Runs what is missing, and says how long the rest will take.

        Args:
            keys: of all cells, in the order to run them.
            function: runs one cell.
            minutes: no new cell is started after this time.
            backwards: start from the end.
        """
        ordered = keys[::-1] if backwards else keys
        missing = [key for key in ordered if self.name(key) not in self.found]
        started = time.monotonic()
        for done, key in enumerate(missing):
            passed = (time.monotonic() - started) / 60
            if minutes is not None and passed >= minutes:
                break
            self._read()
            if self.name(key) in self.found:
                continue
            left = passed / done * (len(missing) - done) if done else float("nan")
            print(
                f"[{len(self.found)} of {len(keys)} done, at most {left:.0f} min left] "
                f"{self.name(key)}",
                flush=True,
            )
            result = function(key)
            with self._locked():
                self._read()
                self.found[self.name(key)] = result
                self._save()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(exist_ok=True)
        with (self.path.parent / f".{self.path.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self) -> None:
        content = {
            "settings": self.settings,
            "machine": machine(),
            "cells": dict(sorted(self.found.items())),
        }
        write_atomically(self.path, json.dumps(content, indent=1))
