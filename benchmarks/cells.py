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

from benchmarks.common import machine
from tfcompress.files import write_atomically


def grid_parser(description: str) -> argparse.ArgumentParser:
    """What the command line of every grid understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="start no cell after")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--backwards", action="store_true", help="start from the end")
    return parser


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
