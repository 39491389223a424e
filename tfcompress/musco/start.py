"""A session from what a caller gives."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import TfcompressError
from tfcompress.musco.session import Progress, Session
from tfcompress.musco.task import Classification, Task
from tfcompress.musco.tuning import FineTuning


def as_batches(data: Any, batch_size: int, *, seed: int | None) -> tf.data.Dataset:
    """Batches from a `tf.data.Dataset` (returned as it is) or from arrays.

    Args:
        data: a dataset of `(inputs, labels)` batches, or a tuple of arrays (or of
            structures of arrays).
        batch_size: for arrays.
        seed: for arrays: of the shuffling; None keeps the order.

    Raises:
        TfcompressError: neither of both.

    Returns:
        Batches; of arrays with a seed full ones only.

    Example:
        >>> len(as_batches((images, labels), 16, seed=0))
        2
    """
    if isinstance(data, tf.data.Dataset):
        return data
    if not (isinstance(data, tuple) and len(data) == 2):
        raise TfcompressError(
            "Data must be a tf.data.Dataset of (images, labels) batches or a tuple of "
            f"two arrays. Received: {type(data).__name__}"
        )
    dataset = tf.data.Dataset.from_tensor_slices(data)
    if seed is None:
        return dataset.batch(batch_size)
    size = len(tf.nest.flatten(data[0])[0])
    dataset = dataset.shuffle(size, seed=seed)
    return dataset.batch(min(batch_size, size), drop_remainder=True)


def start(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    task: Task | None,
    teacher: keras.Model | None,
    tuning: Mapping[str, Any],
    rounds: int,
    calibration_steps: int,
    asymmetric: bool,
    cache: str | os.PathLike | None,
    seed: int,
    progress: Progress | None,
) -> Session:
    """A `Session` from what a caller gives."""
    try:
        fine_tuning = FineTuning(**tuning)
    except TypeError as error:
        known = [field.name for field in dataclasses.fields(FineTuning)]
        raise TypeError(f"{error}; fine-tuning takes {', '.join(known)}") from error
    size = fine_tuning.batch_size
    teacher = model if teacher is None else teacher
    task = task or Classification()
    # What does not fit together is told now, not when much has been measured.
    task.trainer(model, teacher, fine_tuning, seed=seed)
    train = as_batches(train, size, seed=seed)
    fine_tuning.length(train)
    return Session(
        model=model,
        train=train,
        validation=as_batches(validation, size, seed=None),
        teacher=teacher,
        task=task,
        tuning=fine_tuning,
        rounds=rounds,
        calibration_steps=calibration_steps,
        asymmetric=asymmetric,
        cache=None if cache is None else Path(cache),
        seed=seed,
        progress=progress,
    )
