"""How much a network's outputs suffer when one layer loses some of its own.

Weight or output errors of single layers do not compare across layers (Schuurmans et
al. 2023): the network itself is asked. Every layer is approximated alone, at a few
strengths, and the divergence of the network's outputs is measured. No labels are used.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distill.divergence import Divergence, output_divergence
from tfcompress.errors import TfcompressError
from tfcompress.layers import FactorizedLayer, kernel_of, kernel_shape_of, registry
from tfcompress.linalg import Moments
from tfcompress.surgery import copy_model
from tfcompress.trace import leaves

# Relative squared output errors the probes aim at, from mild to strong.
PROBES = (0.02, 0.1, 0.3)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Curve:
    """What errors of one layer's outputs cost the network.

    Attributes:
        errors: relative squared errors of the layer's outputs, rising.
        losses: divergence of the network's outputs at these, not falling.
    """

    errors: tuple[float, ...]
    losses: tuple[float, ...]

    def __call__(self, error: Any) -> np.ndarray:
        """Expected divergence at given errors: linear from and between the probes.

        For small errors the divergence is quadratic in the change of the outputs, so
        linear in their squared error.
        """
        error = np.asarray(error, np.float64)
        points = np.concatenate([[0.0], self.errors])
        values = np.concatenate([[0.0], self.losses])
        if len(points) < 2:
            return np.zeros_like(error)
        slope = (values[-1] - values[-2]) / max(points[-1] - points[-2], 1e-12)
        beyond = values[-1] + slope * (error - points[-1])
        inside = np.interp(error, points, values)
        return np.where(error > points[-1], beyond, inside)

    def to_dict(self) -> dict[str, list[float]]:
        """The curve as plain data."""
        return {"errors": list(self.errors), "losses": list(self.losses)}


def measure_sensitivity(
    model: keras.Model,
    batches: Iterable[Any],
    *,
    moments: Mapping[str, Moments] | None = None,
    reference: keras.Model | None = None,
    steps: int = 4,
    probes: Sequence[float] = PROBES,
    divergence: Divergence = output_divergence,
    progress: Progress | None = None,
) -> dict[str, Curve]:
    """Probes every layer that can be factorized, alone.

    Args:
        model: a built model; it is not changed.
        batches: inputs, or `(inputs, ...)` tuples; kept in memory while it runs.
        moments: of the layers' inputs: the probes are the approximations that will
            be used, and their errors those of the outputs.
        reference: whose outputs are the right ones; `model` by default.
        steps: number of batches to use at most.
        probes: relative squared errors to aim at, rising.
        divergence: of the network's outputs.
        progress: called with (layers done, layers in all).

    Returns:
        A `Curve` for each layer path; layers no probe fits are left out.

    Raises:
        TfcompressError: no batches, or outputs that are not finite.

    Example:
        >>> sorted(measure_sensitivity(model, [images]))
        ['conv', 'head']
    """
    data = [
        b[0] if isinstance(b, tuple) else b for b in itertools.islice(batches, steps)
    ]
    if not data:
        raise TfcompressError("Measuring the sensitivity needs at least one batch.")
    original = reference or model
    right = [original(x, training=False) for x in data]
    probe = copy_model(model)

    @tf.function(reduce_retracing=True)
    def loss_of(inputs: Any, expected: Any) -> Any:
        return divergence(expected, probe(inputs, training=False))

    def loss() -> float:
        pairs = zip(data, right, strict=True)
        return float(np.mean([loss_of(x, expected) for x, expected in pairs]))

    # What is there without any probe: of the reference, else no more than rounding.
    floor = loss()
    if not np.isfinite(floor):
        raise TfcompressError(
            "The sensitivity cannot be measured: the network's outputs on these "
            "batches are not finite, or the batches hold no samples. The model or the "
            f"data are broken. Received: a divergence of {floor} before any change"
        )
    found = {}
    places = [(path, layer) for path, layer in leaves(probe) if _options(layer)]
    for done, (path, layer) in enumerate(places):
        points = _probe_layer(layer, (moments or {}).get(path), probes, loss)
        if points:
            errors, losses = zip(*points, strict=True)
            # Noise of few samples must not make more error look better.
            rising = np.maximum.accumulate(np.maximum(np.array(losses) - floor, 0.0))
            found[path] = Curve(errors, tuple(float(value) for value in rising))
        if progress is not None:
            progress(done + 1, len(places))
    return found


def _options(layer: Any) -> tuple[str, ...]:
    return registry.options(layer)[0]


def _probe_layer(
    layer: Any,
    moments: Moments | None,
    probes: Sequence[float],
    loss: Callable[[], float],
) -> list[tuple[float, float]]:
    """`(error, loss)` of the layer approximated at the ranks nearest to each probe."""
    stock = not isinstance(layer, FactorizedLayer)
    cls = registry.get(_options(layer)[0]) if stock else type(layer)
    largest = cls.max_ranks(kernel_shape_of(layer)) if stock else layer.ranks
    shares = np.unique(np.geomspace(1.0 / max(largest), 1.0, 24))
    candidates = sorted(
        {tuple(max(round(share * most), 1) for most in largest) for share in shares}
    )
    metric = cls.metric(layer, moments)
    if stock:
        errors = cls.errors(kernel_of(layer), candidates, metric)
    else:
        errors = layer.factor_errors(candidates, metric)
    chosen = {int(np.argmin(np.abs(np.log((errors + 1e-9) / p)))) for p in probes}
    points = []
    kept = [np.array(weight) for weight in layer.weights]
    for index in sorted(chosen, key=lambda i: errors[i]):
        if errors[index] <= 1e-6:
            continue
        _assign(layer, cls, candidates[index], moments)
        points.append((float(errors[index]), loss()))
        for weight, value in zip(layer.weights, kept, strict=True):
            weight.assign(value)
    return points


def _assign(
    layer: Any, cls: type, ranks: tuple[int, ...], moments: Moments | None
) -> None:
    """Gives a layer the function of its approximation, within its own variables."""
    if isinstance(layer, FactorizedLayer):
        cut = layer.truncate(ranks, moments)
        for name, factor in cut.factors().items():
            room = getattr(layer, name).shape
            pads = [
                (0, full - size) for full, size in zip(room, factor.shape, strict=True)
            ]
            getattr(layer, name).assign(np.pad(factor, pads))
    else:
        cut = cls.from_layer(layer, ranks, moments)
        weight = getattr(layer, cls.kernel_name)
        weight.assign(cut.kernel().reshape(weight.shape))
    if cut.bias is not None:
        layer.bias.assign(cut.bias)
