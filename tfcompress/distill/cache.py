"""Logits of a teacher, kept on disk: the teacher need not run again.

Exact where the views can be replayed: always in mode "fixed", and in the others for
`numbered` data, whose views are functions of (seed, epoch, sample). Raw logits are
kept, so the temperature is free. What does not fit (another teacher, other views, other
batches) is refused.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distill.cache_files import (
    CacheError,
    CacheFiles,
    epochs_done,
    read_meta,
    write_meta,
)
from tfcompress.distill.distiller import Distiller
from tfcompress.distill.samples import Samples
from tfcompress.distill.spec import ViewSpec
from tfcompress.distill.views import describe

# Checked batches lie among the first so many: those before have to be read past.
_FAR = 256
# How far a recomputed logit may be off, relative to the largest, by stored type.
_ROUNDING = {"float16": 2e-3, "float32": 1e-4}


def cache_bytes(
    distiller: Distiller, *, samples: int, epochs: int = 1, dtype: str = "float16"
) -> int:
    """How large a cache will be, in bytes.

    Args:
        distiller: tells the teacher's outputs and the views.
        samples: in one epoch.
        epochs: whose views are kept; in mode "fixed" they are all the same.
        dtype: "float16" or "float32".

    Example:
        >>> cache_bytes(Distiller(student, teacher), samples=1000, epochs=2)
        56000
    """
    shapes = _shapes(distiller)
    values = sum(int(np.prod(shape)) for shape in shapes)
    kept = _epochs_kept(distiller.views, epochs)
    return kept * samples * (values * np.dtype(dtype).itemsize + 8)


def cache_logits(
    distiller: Distiller,
    data: tf.data.Dataset,
    folder: str | Path,
    *,
    samples: int,
    epochs: int = 1,
    dtype: str = "float16",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the teacher's logits for every view of so many epochs.

    A stopped run goes on with the epoch it was in.

    Args:
        distiller: its teachers, views and seed are used; nothing is trained.
        data: `numbered` batches from epoch 0 on, without a remainder left out, or with
            one that is never to be trained on.
        folder: to write to; made where it is missing.
        samples: how many there are in one epoch of `data`.
        epochs: how many to keep; train on `numbered(..., replay=epochs)`. In mode
            "fixed" one is enough for all.
        dtype: of the file: "float16" (a KL divergence changes by some 1e-5) or
            "float32".
        progress: called with (batches done, batches in all).

    Returns:
        The folder.

    Raises:
        CacheError: a view function, not enough room on the disk, data that are not
            numbered, or a folder with another cache.

    Example:
        >>> distiller = Distiller(student, teacher)
        >>> data = numbered(images, labels, batch_size=16)
        >>> cache_logits(distiller, data, "logits",          # doctest: +SKIP
        ...              samples=len(images), epochs=10)
        PosixPath('logits')
    """
    folder = Path(folder)
    identity = _identity(distiller, samples, _epochs_kept(distiller.views, epochs))
    identity["dtype"] = dtype
    if dtype not in _ROUNDING:
        raise CacheError(f"dtype must be 'float16' or 'float32'. Received: {dtype!r}")
    folder.mkdir(parents=True, exist_ok=True)
    done = epochs_done(folder, identity)
    size = cache_bytes(distiller, samples=samples, epochs=epochs, dtype=dtype)
    free = shutil.disk_usage(folder).free
    if done == 0 and size > free:
        raise CacheError(
            f"The cache needs {size / 1e9:.1f} GB, and '{folder}' has "
            f"{free / 1e9:.1f} GB left: keep fewer epochs, or use dtype='float16'."
        )
    files = CacheFiles.create(folder, identity, keep=done > 0)
    targets = tf.function(
        lambda s: [tf.cast(x, dtype) for x in distiller.teacher_logits(s)],
        reduce_retracing=True,
    )
    per_epoch = None
    epoch, count = done, 0
    seen = np.zeros(samples, bool)
    if done < identity["epochs"]:
        for batch in data:
            numbers = _samples_of(batch)
            place = int(numbers.epoch[0])
            if place < done and count == 0:
                continue
            if place > epoch:
                files.flush()
                write_meta(folder, identity, done=place)
                per_epoch = per_epoch or count
                epoch = place
                seen[:] = False
            if int(np.max(numbers.sample)) >= samples:
                raise CacheError(
                    f"The data hold sample {int(np.max(numbers.sample))}: more than "
                    f"were said. Received: samples={samples}"
                )
            # Replayed data begin anew: at epoch 0, and with samples that were seen.
            again = place < epoch or seen[np.asarray(numbers.sample)].any()
            if place >= identity["epochs"] or again:
                break
            seen[np.asarray(numbers.sample)] = True
            files.put(
                np.asarray(numbers.epoch),
                np.asarray(numbers.sample),
                [np.asarray(x) for x in targets(numbers)],
            )
            count += 1
            if progress is not None:
                whole = (per_epoch or -(-samples // len(numbers.sample))) * (
                    identity["epochs"] - done
                )
                progress(count, max(whole, count))
        files.flush()
        write_meta(folder, identity, done=identity["epochs"])
    return folder


def with_cached_logits(
    data: tf.data.Dataset,
    distiller: Distiller,
    folder: str | Path,
    *,
    checked: int = 2,
    seed: int = 0,
) -> tf.data.Dataset:
    """Numbered batches that bring the teacher's logits with them.

    Some random batches are recomputed and compared before anything is trained.

    Args:
        data: `numbered` batches, of the same order as the cached ones.
        distiller: of the same teachers, views and seed; it is what will be trained.
        folder: a cache, by `cache_logits`.
        checked: how many batches to recompute.
        seed: which ones.

    Returns:
        A dataset like `data`, for `distiller.fit`.

    Raises:
        CacheError: the cache is not complete, or not of this teacher, these views or
            these data. Within the training: a batch that was not cached.

    Example:
        >>> distiller = Distiller(student, teacher)
        >>> data = numbered(images, labels, batch_size=16, replay=10)
        >>> cached = with_cached_logits(data, distiller, "logits")   # doctest: +SKIP
        >>> figures = fit(distiller, cached, None,                   # doctest: +SKIP
        ...               epochs=100, steps_per_epoch=2)
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if meta is None:
        raise CacheError(f"There is no logit cache in '{folder}': see cache_logits.")
    wanted = _identity(distiller, meta["samples"], meta["epochs"])
    wanted["dtype"] = meta["dtype"]
    for name, value in wanted.items():
        if meta.get(name) != value:
            raise CacheError(
                f"The logit cache '{folder}' is not of this distiller: its {name} is "
                f"{meta.get(name)}, now {value}. Write another cache."
            )
    if meta["done"] < meta["epochs"]:
        raise CacheError(
            f"The logit cache '{folder}' is not complete ({meta['done']} of "
            f"{meta['epochs']} epochs): run cache_logits again, it goes on."
        )
    files = CacheFiles(folder, meta, mode="r")
    shapes = _shapes(distiller)

    def look_up(epoch: Any, sample: Any) -> list[Any]:
        return files.get(np.asarray(epoch), np.asarray(sample))

    def attach(numbers: Any, *labels: Any) -> Any:
        found = tf.numpy_function(
            look_up, [numbers.epoch, numbers.sample], [tf.float32] * len(shapes)
        )
        for tensor, shape in zip(found, shapes, strict=True):
            tensor.set_shape((numbers.sample.shape[0], *shape))
        return (numbers._replace(logits=tuple(found)), *labels)

    for batch in data.take(1):
        size = len(_samples_of(batch).sample)
    batches = max(meta["samples"] // size, 1) * meta["epochs"]
    places = np.random.default_rng(seed).integers(0, min(batches, _FAR), size=checked)
    for place in places:
        for batch in data.skip(int(place)).take(1).map(attach):
            _check(distiller, _samples_of(batch), meta["dtype"], folder)
    return data.map(attach, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )


def _check(distiller: Distiller, data: Samples, dtype: str, folder: Path) -> None:
    expected = distiller.teacher_logits(data._replace(logits=()))
    for now, cached in zip(expected, data.logits, strict=True):
        scale = max(float(tf.reduce_max(tf.abs(now))), 1e-6)
        error = float(tf.reduce_max(tf.abs(now - cached))) / scale
        if error > _ROUNDING[dtype]:
            raise CacheError(
                f"The logit cache '{folder}' does not hold what the teacher says now: "
                f"recomputed logits differ by {100 * error:.1f} % of the largest. The "
                "data, their order or the preprocessing are others: write another "
                "cache."
            )


def _samples_of(batch: Any) -> Samples:
    numbers = batch[0] if isinstance(batch, tuple) else batch
    if not isinstance(numbers, Samples):
        raise CacheError("Logits are cached by number: make the data by numbered(...).")
    return numbers


def _shapes(distiller: Distiller) -> list[list[int]]:
    """Shape of each output of one sample, as logits."""
    shapes = [list(x.shape[1:]) for x in distiller.student.outputs]
    kinds = distiller.output_kinds
    # Binary outputs have two classes as logits.
    return [
        [*shape, 2] if kind.startswith("binary") else shape
        for shape, kind in zip(shapes, kinds, strict=True)
    ]


def _epochs_kept(spec: Any, epochs: int) -> int:
    if epochs < 1:
        raise CacheError(f"epochs must be at least 1. Received: {epochs}")
    return 1 if isinstance(spec, ViewSpec) and spec.mode == "fixed" else epochs


def _identity(distiller: Distiller, samples: int, epochs: int) -> dict[str, Any]:
    """What a cache must agree in, as plain data."""
    if len(distiller.teachers) > 1 and distiller.ensemble != "logit_mean":
        raise CacheError(
            f"ensemble='{distiller.ensemble}' depends on the temperature and on each "
            "teacher: only 'logit_mean' can be cached."
        )
    views = distiller.views
    return {
        "teachers": [model_fingerprint(teacher) for teacher in distiller.teachers],
        "views": describe(views),
        "seed": distiller.seed,
        "shapes": _shapes(distiller),
        "fixed": views.mode == "fixed",
        "mixes": views.mode == "function_matching",
        "samples": samples,
        "epochs": epochs,
    }


def model_fingerprint(model: keras.Model) -> str:
    """SHA-256 over the names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(f"{variable.name} {tuple(variable.shape)}\n".encode())
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
