"""Moments of what every layer sees: measured on calibration data, for its factors.

Memory is bounded: at most `8 * max_size**2` bytes for each layer (42 MB at the
default), whatever the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.errors import OptionError, TfcompressError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.layers.sampling import Sample
from tfcompress.linalg import Moments
from tfcompress.surgery import factorize
from tfcompress.trace import leaves, listening

# Rows wanted for each direction of a moment, and the fewest in all.
_ROWS_PER_DIRECTION = 32
_FEWEST_ROWS = 16384


def collect_moments(
    model: keras.Model,
    batches: Iterable[Any],
    *,
    layers: Iterable[str] | None = None,
    steps: int = 16,
    max_size: int = 2304,
    reference: keras.Model | None = None,
) -> dict[str, Moments]:
    """First and second moments of the inputs of every layer that can be factorized.

    One pass over the batches, in inference mode. For a convolution the moments are of
    whole patches `(taps * in)`, or of single channels where a patch is longer than
    `max_size`.

    Args:
        model: a built model; it is not changed.
        batches: inputs, or `(inputs, ...)` tuples; no labels are used.
        layers: paths of the layers wanted; all by default.
        steps: number of batches to use at most.
        max_size: longest patch whose moments are kept whole.
        reference: asymmetric mode: the uncompressed network. The moments are of what
            the layers of `model` see, and their cross moments with what the layers
            of the same paths see in `reference` (Zhang et al. 2016, section 3.3).

    Returns:
        `Moments` by layer path; layers that are never called are left out.

    Raises:
        OptionError: `steps` or `max_size` below 1.
        TfcompressError: no batches, nothing in them, or values that are not finite.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> found = collect_moments(model, [np.ones((32, 8), "float32")])
        >>> next(iter(found.values())).second.shape
        (8, 8)
    """
    if steps < 1 or max_size < 1:
        raise OptionError(
            "Moments need at least 1 step and a max_size of at least 1. "
            f"Received: steps={steps}, max_size={max_size}"
        )
    listeners = [_Listener(model, layers, steps, max_size)]
    if reference is not None:
        listeners.append(_Listener(reference, layers, steps, max_size))

    @tf.function(reduce_retracing=True, autograph=False)
    def measure(inputs: Any, index: Any) -> dict[str, tuple[Any, ...]]:
        rows = [listener.rows(inputs, index) for listener in listeners]
        return {
            path: _sums(*(own.get(path) for own in rows))
            for path in rows[0]
            if all(path in own for own in rows)
        }

    totals: dict[str, dict[str, np.ndarray]] = {}
    seen = 0
    for batch in itertools.islice(batches, steps):
        inputs = batch[0] if isinstance(batch, tuple) else batch
        sums = measure(inputs, tf.constant(seen, tf.int32))
        seen += 1
        for path, values in sums.items():
            found = _uncentred(*(np.asarray(value, np.float64) for value in values))
            known = totals.setdefault(path, dict.fromkeys(found, 0.0))
            for name, value in found.items():
                known[name] = known[name] + value
    if not seen:
        raise TfcompressError(
            "Moments of the layers' inputs need at least one batch, in every pass: a "
            "generator is used up by the first. Received: none"
        )
    return {path: _moments(path, **values) for path, values in totals.items()}


class _Listener:
    """Hears what the wanted layers of one model are called with."""

    def __init__(
        self,
        model: keras.Model,
        wanted: Iterable[str] | None,
        steps: int,
        max_size: int,
    ) -> None:
        wanted = None if wanted is None else set(wanted)
        self._model = model
        self._paths: dict[int, str] = {}
        self._types: dict[int, type] = {}
        self._whole: dict[int, bool] = {}
        self._limits: dict[int, int] = {}
        for path, layer in leaves(model):
            options, _ = registry.options(layer)
            if not options or (wanted is not None and path not in wanted):
                continue
            if not registry.get(options[0]).has_statistics:
                continue
            key, size = id(layer), math.prod(kernel_shape_of(layer)[:-1])
            self._paths[key] = path
            self._types[key] = registry.get(options[0])
            self._whole[key] = size <= max_size
            rows = max(_ROWS_PER_DIRECTION * min(size, max_size), _FEWEST_ROWS)
            self._limits[key] = math.ceil(rows / steps)

    def rows(self, inputs: Any, seed: Any) -> dict[str, Any]:
        """Rows by path for one batch; for the graph of a `tf.function`.

        With one seed two models are heard in the same places.
        """
        found: dict[str, list[Any]] = {}

        def hear(layer: Any, called_with: Any, outputs: Any) -> None:
            key = id(layer)
            if key in self._paths:
                rows = self._types[key].input_rows(
                    layer,
                    tf.nest.flatten(called_with)[0],
                    whole=self._whole[key],
                    sample=Sample(self._limits[key], seed),
                )
                found.setdefault(self._paths[key], []).append(tf.cast(rows, tf.float32))

        with listening(hear):
            self._model(inputs, training=False)
        return {path: tf.concat(rows, axis=0) for path, rows in found.items()}


def _sums(rows: Any, target: Any = None) -> tuple[Any, ...]:
    """Sums of one batch around its own means.

    Sums of squares in float32 would drown the variance of inputs far from zero.
    """
    count = tf.shape(rows)[0]
    rows, mean, rest = _centred(rows)
    sums = (count, mean, rest, tf.matmul(rows, rows, transpose_a=True))
    if target is None:
        return sums
    target, target_mean, target_rest = _centred(target)
    cross = tf.matmul(rows, target, transpose_a=True)
    return (*sums, target_mean, target_rest, cross)


def _centred(rows: Any) -> tuple[Any, Any, Any]:
    """Rows around their mean, the mean, and the sum that rounding leaves of them."""
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(rows, axis=0), tf.cast(tf.shape(rows)[0], rows.dtype)
    )
    rows = rows - mean
    return rows, mean, tf.reduce_sum(rows, axis=0)


def _uncentred(
    count: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    squares: np.ndarray,
    target_mean: np.ndarray | None = None,
    target_rest: np.ndarray | None = None,
    cross: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Plain sums, in float64, of what `_sums` gives."""

    def around(
        a: np.ndarray, a_rest: np.ndarray, b: np.ndarray, b_rest: np.ndarray
    ) -> np.ndarray:
        return count * np.outer(a, b) + np.outer(a_rest, b) + np.outer(a, b_rest)

    sums = {
        "count": count,
        "total": count * mean + rest,
        "squares": squares + around(mean, rest, mean, rest),
    }
    if cross is not None:
        sums["target"] = count * target_mean + target_rest
        sums["cross"] = cross + around(mean, rest, target_mean, target_rest)
    return sums


def _moments(
    path: str,
    count: np.ndarray,
    total: np.ndarray,
    squares: np.ndarray,
    target: np.ndarray | None = None,
    cross: np.ndarray | None = None,
) -> Moments:
    if not count:
        raise TfcompressError(
            f"Layer '{path}' sees no rows: the batches hold no samples. "
            "Received: 0 rows"
        )
    if not all(np.all(np.isfinite(x)) for x in (squares, cross) if x is not None):
        raise TfcompressError(
            f"Layer '{path}' sees values that are not finite on the calibration data: "
            "the model or the data are broken."
        )
    return Moments(
        second=squares / count,
        mean=total / count,
        count=int(count),
        cross=None if cross is None else cross / count,
        target_mean=None if target is None else target / count,
    )


def factorize_on_data(
    model: keras.Model,
    choices: Mapping[str, tuple[str, tuple[int, ...]]],
    batches: Iterable[Any],
    *,
    steps: int = 16,
    asymmetric: bool = False,
    passes: int = 16,
) -> keras.Model:
    """As `surgery.factorize`, with factors that lose least of the layers' outputs.

    Args:
        model: a built model; it is not changed.
        choices: layer type and ranks by path.
        batches: calibration data, see `collect_moments`; iterated over once, in the
            asymmetric mode once for each pass.
        steps: number of batches to use at most.
        asymmetric: layer after layer, front to back: each makes up for what the
            layers before it have lost (Zhang et al. 2016, section 3.3).
        passes: over the data at most; where there are more layers, neighbours share
            a pass and do not make up for each other.

    Returns:
        A new, uncompiled model.

    Raises:
        KeyError: a path that names no layer.
        OptionError: `steps` or `passes` below 1.
        TfcompressError: see `collect_moments`; `surgery.factorize` raises more.
    """
    if passes < 1:
        raise OptionError(f"At least 1 pass is needed. Received: passes={passes}")
    paths = [path for path, _ in leaves(model) if path in choices]
    unknown = sorted(choices.keys() - set(paths))
    if unknown:
        raise KeyError(f"No layer '{unknown[0]}' in model '{model.name}'.")
    if not asymmetric or not paths:
        moments = collect_moments(model, batches, layers=choices, steps=steps)
        return factorize(model, choices, moments)
    current = model
    for group in np.array_split(np.arange(len(paths)), min(passes, len(paths))):
        chosen = {paths[i]: choices[paths[i]] for i in group}
        moments = collect_moments(
            current, batches, layers=chosen, steps=steps, reference=model
        )
        current = factorize(current, chosen, moments)
    return current
