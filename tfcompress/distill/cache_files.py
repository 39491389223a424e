"""The files of a logit cache: arrays mapped into memory, and what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.errors import TfcompressError
from tfcompress.files import write_atomically

_META = "cache.json"


class CacheError(TfcompressError, ValueError):
    """A logit cache that is broken, or of other data, views or teachers."""


class CacheFiles:
    """The arrays of a cache, mapped into memory.

    `logits_i`: (epochs, samples, ...) of output i. `context`: (epochs, samples, 2): the
    samples a mixture was made with, that is the one before in its batch and the first.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], *, mode: str) -> None:
        self._meta = meta
        names = [f"logits_{i}" for i in range(len(meta["shapes"]))]
        try:
            self._logits = [_open(folder / f"{name}.npy", mode) for name in names]
            self._context = _open(folder / "context.npy", mode)
        except (OSError, ValueError) as error:
            raise CacheError(
                f"The logit cache '{folder}' is broken: {error}. Delete it."
            ) from error

    @classmethod
    def create(cls, folder: Path, meta: dict[str, Any], *, keep: bool) -> CacheFiles:
        """Empty arrays, or those that are there where `keep` says so."""
        rows = (meta["epochs"], meta["samples"])
        wanted = {
            f"logits_{i}": ((*rows, *shape), meta["dtype"])
            for i, shape in enumerate(meta["shapes"])
        }
        wanted["context"] = ((*rows, 2), "int32")
        for name, (shape, dtype) in wanted.items():
            path = folder / f"{name}.npy"
            if not (keep and path.exists()):
                array = np.lib.format.open_memmap(
                    path, mode="w+", dtype=dtype, shape=shape
                )
                if name == "context":
                    # Nothing is there yet.
                    array[:] = -1
        return cls(folder, meta, mode="r+")

    def put(
        self, epoch: np.ndarray, sample: np.ndarray, logits: list[np.ndarray]
    ) -> None:
        """Keeps the logits of one batch.

        Raises:
            CacheError: numbers that the type of the file cannot hold.
        """
        epoch, sample = self._places(epoch, sample)
        for array, values in zip(self._logits, logits, strict=True):
            if not np.isfinite(values).all():
                raise CacheError(
                    "The teacher gives logits that float16 cannot hold, or that are "
                    "not finite: use dtype='float32'."
                )
            array[epoch, sample] = values
        self._context[epoch, sample] = _context(sample, self._meta["mixes"])

    def get(self, epoch: np.ndarray, sample: np.ndarray) -> list[np.ndarray]:
        """Logits of one batch, float32.

        Raises:
            CacheError: the batch was not cached as it is.
        """
        epoch, sample = self._places(epoch, sample)
        expected = _context(sample, self._meta["mixes"])
        if not np.array_equal(self._context[epoch, sample], expected):
            raise CacheError(
                "These batches are not those that were cached: the samples were mixed "
                "with others, or were never seen. Use the same batch size, seed and "
                f"numbered(..., replay={self._meta['epochs']})."
            )
        return [array[epoch, sample].astype(np.float32) for array in self._logits]

    def _places(self, epoch: np.ndarray, sample: np.ndarray) -> tuple[Any, Any]:
        if self._meta["fixed"]:
            epoch = np.zeros_like(epoch)
        epochs, samples = self._meta["epochs"], self._meta["samples"]
        if epoch.max() >= epochs or sample.max() >= samples:
            raise CacheError(
                f"Epoch {epoch.max()}, sample {sample.max()} were not cached: there "
                f"are {epochs} epochs of {samples} samples. "
                f"Use numbered(..., replay={epochs})."
            )
        return epoch, sample

    def flush(self) -> None:
        """Brings everything to the disk."""
        for array in (*self._logits, self._context):
            array.flush()


def _open(path: Path, mode: str) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode=mode)


def _context(sample: np.ndarray, mixes: bool) -> np.ndarray:
    """The samples before and first in the batch, on which a mixture depends."""
    if not mixes:
        return np.zeros((len(sample), 2), np.int32)
    first = np.full_like(sample, sample[0])
    return np.stack([np.roll(sample, 1), first], axis=1)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a cache is of, and how many epochs are done; None where there is none.

    Raises:
        CacheError: it cannot be read.
    """
    path = folder / _META
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CacheError(f"'{path}' is broken: {error}. Delete the cache.") from error


def write_meta(folder: Path, identity: dict[str, Any], *, done: int) -> None:
    """Notes that so many epochs are whole."""
    content = json.dumps(identity | {"done": done}, indent=1)
    write_atomically(folder / _META, content)


def epochs_done(folder: Path, identity: dict[str, Any]) -> int:
    """How many epochs a folder holds already.

    Raises:
        CacheError: it holds another cache.
    """
    meta = read_meta(folder)
    if meta is None:
        return 0
    done = meta.pop("done")
    if meta != json.loads(json.dumps(identity)):
        raise CacheError(
            f"'{folder}' holds the logits of another teacher, other views or data: "
            "choose another folder, or delete it."
        )
    return done
