"""Calibration data for integer quantization: checked, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.deploy.interface import Interface
from tfcompress.errors import TfcompressError


class CalibrationError(TfcompressError, ValueError):
    """Calibration data is missing or does not fit the model's inputs."""


def calibration_samples(
    calibration: Any, interface: Interface, limit: int
) -> list[dict[str, np.ndarray]]:
    """Cuts calibration batches into single samples, each checked against the model.

    Args:
        calibration: see `tfcompress.deploy.export_tflite`.
        interface: the model's inputs.
        limit: how many samples to take at most.

    Returns:
        A list of `{input name: array of shape (1, ...)}`.

    Raises:
        CalibrationError: no data, or data of the wrong structure, shape or values.
    """
    if calibration is None:
        raise CalibrationError(
            "An integer file needs `calibration`: an iterable of input batches "
            "(100 to 500 typical samples) from which activation ranges are measured. "
            "Received: None"
        )
    whole = isinstance(calibration, (Mapping, np.ndarray, tf.Tensor))
    batches: Iterable[Any] = [calibration] if whole else calibration
    samples: list[dict[str, np.ndarray]] = []
    for batch in batches:
        for sample in _split(batch, interface):
            samples.append(sample)
            if len(samples) == limit:
                return samples
    if not samples:
        raise CalibrationError(
            "`calibration` yielded no samples; give at least one batch of inputs (a "
            "generator that was used up yields nothing). "
            f"Received: {type(calibration).__name__}"
        )
    return samples


def _split(batch: Any, interface: Interface) -> Iterator[dict[str, np.ndarray]]:
    arrays = {
        name: _checked(name, value, interface.specs[name])
        for name, value in _by_name(batch, interface).items()
    }
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise CalibrationError(
            "The inputs of a calibration batch must hold equally many samples. "
            f"Received: {lengths}"
        )
    for index in range(next(iter(lengths.values()))):
        yield {name: array[index : index + 1] for name, array in arrays.items()}


def _by_name(batch: Any, interface: Interface) -> dict[str, Any]:
    names = list(interface.specs)
    if isinstance(batch, Mapping) and set(batch) == set(names):
        return {name: batch[name] for name in names}
    if isinstance(batch, (tuple, list)):
        if len(batch) == len(names) and (len(names) == 1 or not interface.by_name):
            return dict(zip(names, batch, strict=True))
    elif not isinstance(batch, Mapping) and len(names) == 1:
        return {names[0]: batch}
    what = (
        f"dict with keys {sorted(map(str, batch))}"
        if isinstance(batch, Mapping)
        else f"{type(batch).__name__} of length {len(batch)}"
    )
    raise CalibrationError(
        f"A calibration batch must hold the model's inputs {names} and nothing else; "
        f"drop labels with `dataset.map(lambda x, y: x)`. Received: {what}"
    )


def _checked(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0 or not spec.shape[1:].is_compatible_with(array.shape[1:]):
        raise CalibrationError(
            f"Calibration data for input '{name}' must have shape "
            f"{tuple(spec.shape)}. Received: shape {array.shape}"
        )
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise CalibrationError(
            f"Calibration data for input '{name}' must be finite numbers; one bad "
            f"value spoils the measured range. Received: dtype {array.dtype}"
        )
    return array.astype(spec.dtype.as_numpy_dtype)
