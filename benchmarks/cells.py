"""Grids of long experiments: each cell is saved as it ends, a stopped grid goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from tfcompress.files import write_atomically


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
        if path.exists():
            content = json.loads(path.read_text())
            if content["settings"] != self.settings:
                raise SystemExit(
                    f"{path.name} holds cells with other settings "
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
    ) -> None:
        """Runs what is missing, and says how long the rest will take.

        Args:
            keys: of all cells, in the order to run them.
            function: runs one cell.
            minutes: no new cell is started after this time.
        """
        missing = [key for key in keys if self.name(key) not in self.found]
        started = time.monotonic()
        for done, key in enumerate(missing):
            passed = (time.monotonic() - started) / 60
            if minutes is not None and passed >= minutes:
                break
            left = passed / done * (len(missing) - done) if done else float("nan")
            print(
                f"[{len(keys) - len(missing) + done + 1}/{len(keys)}, about "
                f"{left:.0f} min left] {self.name(key)}",
                flush=True,
            )
            self.found[self.name(key)] = function(key)
            self._save()

    def _save(self) -> None:
        content = {
            "settings": self.settings,
            "machine": machine(),
            "cells": self.found,
        }
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, json.dumps(content, indent=1))
