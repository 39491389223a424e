"""The state of a training in a file: a stopped run goes on to the same result."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.errors import TfcompressError
from tfcompress.files import write_with

_EPOCH = "epoch"
_HISTORY = "history"

History = dict[str, list[float]]


class Restored(NamedTuple):
    """Where a training stands: epochs done, and the figures of each so far."""

    epoch: int
    history: History


class CheckpointError(TfcompressError, ValueError):
    """A checkpoint that cannot be read, or is of another training."""


def state_of(trainer: keras.Model) -> dict[str, Any]:
    """All variables that a training changes, by place and name.

    Args:
        trainer: compiled; its optimizer is built.
    """
    # Among the variables are the states of random generators: dropout goes on too.
    variables = [*trainer.variables, *trainer.optimizer.variables]
    metrics = {id(v) for metric in trainer.metrics for v in metric.variables}
    found = {id(v): v for v in variables if id(v) not in metrics}
    return {f"{i:05d} {v.path}": v for i, v in enumerate(found.values())}


def save_checkpoint(
    trainer: keras.Model,
    path: str | Path,
    *,
    epoch: int,
    history: History | None = None,
) -> None:
    """Writes the state of a training, all or nothing.

    Args:
        trainer: a compiled `Distiller`, `Supervised` or `Matching`, its optimizer
            built, as it is after the first step.
        path: the file, `.npz`.
        epoch: how many epochs are done.
        history: figures so far.

    Example:
        >>> trainer = Matching(student, teacher)
        >>> trainer.compile("adam")
        >>> trainer.optimizer.build(trainer.trainable_variables)
        >>> save_checkpoint(trainer, "training.npz", epoch=3)
        >>> restore_checkpoint(trainer, "training.npz").epoch
        3
    """
    arrays = {name: np.asarray(v) for name, v in state_of(trainer).items()}
    # NumPy has no bfloat16 of its own: as float32, exactly.
    arrays = {
        name: a if a.dtype.kind in "fiub" else a.astype(np.float32)
        for name, a in arrays.items()
    }
    text = json.dumps(history or {}).encode()
    own = {_EPOCH: np.asarray(epoch), _HISTORY: np.frombuffer(text, np.uint8)}
    with write_with(Path(path)) as file:
        np.savez(file, **own, **arrays)


def restore_checkpoint(trainer: keras.Model, path: str | Path) -> Restored:
    """Brings a trainer to the state in a file.

    Args:
        trainer: compiled, of the same networks and optimizer as the one saved.
        path: the file; where there is none, nothing is changed.

    Returns:
        How many epochs are done, 0 where there is no file, and their figures.

    Raises:
        CheckpointError: the file is broken, or of another training.

    Example:
        >>> trainer = Matching(student, teacher)
        >>> trainer.compile("adam")
        >>> restore_checkpoint(trainer, "training.npz")
        Restored(epoch=0, history={})
    """
    path = Path(path)
    if not path.exists():
        return Restored(0, {})
    if not trainer.optimizer.built:
        trainer.optimizer.build(trainer.trainable_variables)
    state = state_of(trainer)
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"Cannot read the checkpoint '{path}': {error}. Delete it to begin anew."
        ) from error
    epoch, history = (arrays.pop(name, None) for name in (_EPOCH, _HISTORY))
    # Names hold counters of Keras that differ from process to process.
    found = list(arrays.values())
    shapes = [tuple(v.shape) for v in state.values()]
    if epoch is None or history is None or [a.shape for a in found] != shapes:
        raise CheckpointError(
            f"The checkpoint '{path}' is of another training: its variables are not "
            "those of this one. Delete it, or go on with the same networks and "
            f"optimizer. Received: {len(found)} arrays for {len(shapes)} variables"
        )
    for variable, array in zip(state.values(), found, strict=True):
        variable.assign(array)
    return Restored(int(epoch), json.loads(history.tobytes()))


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of a training now and then, and at its end.

    Args:
        path: the file.
        seconds: at least so long between two files.
        history: figures of the epochs before these.

    Example:
        >>> saves = Checkpoint("training.npz", seconds=300)
        >>> trainer.fit(train, callbacks=[saves])                    # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        seconds: float = 60.0,
        history: History | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.seconds = seconds
        self.history = {key: list(values) for key, values in (history or {}).items()}
        self._last = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._last = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        last = epoch + 1 == self.params["epochs"]
        if last or time.monotonic() - self._last >= self.seconds:
            save_checkpoint(
                self.model, self.path, epoch=epoch + 1, history=self.history
            )
            self._last = time.monotonic()
