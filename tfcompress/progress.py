"""Progress on the terminal: stage, epoch, figures and time left; plain when piped."""

from __future__ import annotations

import math
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Piped output gets a line no more often than this.
_SECONDS_BETWEEN_LINES = 10.0

_SHOWN = ("round", "loss", "kl", "agreement", "val_accuracy", "val_agreement")


class TerminalDisplay:
    """Shows a run on a rich console; use as a context manager.

    Args:
        console: where to; the standard error output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._stage = ""
        self._unit = "step"
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[place]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[figures]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, index: int, count: int, name: str, *, done: bool) -> None:
        """A stage begins, or is found done."""
        self._stage = f"{index}/{count} {name}"
        training = ("teacher", "distill", "compress", "training")
        self._unit = "epoch" if name in training else "step"
        self._last_line = time.monotonic()
        if done:
            self.console.print(
                f"{self._stage}: done before, kept", highlight=False, soft_wrap=True
            )
            return
        if self._bar is None:
            self.console.print(
                f"{self._stage}: started", highlight=False, soft_wrap=True
            )
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(
            self._stage, total=None, place="preparing", figures=""
        )

    def update(self, done: float, total: int, figures: dict[str, float]) -> None:
        """The stage is at `done` of `total`."""
        place = f"{self._unit} {math.ceil(done)}/{total}"
        shown = "  ".join(
            f"{key} {figures[key]:.4g}" for key in _SHOWN if key in figures
        )
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total, place=place, figures=shown
            )
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(
                f"{self._stage}: {place}  {shown}", highlight=False, soft_wrap=True
            )

    def finish(self, name: str, seconds: float) -> None:
        """The stage is done."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self.console.print(
            f"{self._stage}: {seconds:.1f} s", highlight=False, soft_wrap=True
        )
