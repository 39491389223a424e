"""A task from a metric alone: the rest is what the model was compiled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfcompress.distill import output_divergence, regression_divergence
from tfcompress.errors import TfcompressError
from tfcompress.musco.task import Task

Metric = str | Callable[..., Any] | keras.metrics.Metric

DIRECTIONS = {"up": "max", "down": "min"}


def task_of(
    model: keras.Model, metric: Metric | None, direction: str | None
) -> Task | None:
    """The task of a model with one output that is judged by a Keras metric.

    Its loss is the one that the model was compiled with. Under a cross-entropy, or
    none, networks are compared as classifiers, else by squared errors.

    Args:
        model: the model.
        metric: as for `compile`: a name, a function or a `keras.metrics.Metric`; None
            for a classifier's accuracy.
        direction: "max" where more of it is better, "min" where less; None takes what
            Keras says of the metric.

    Returns:
        The task; None without a metric.

    Raises:
        TfcompressError: Keras does not know the metric, or whether more of it is
            better; several outputs; a direction alone.

    Example:
        >>> task_of(model, "mae", None).mode
        'min'
    """
    if metric is None:
        if direction is not None:
            raise TfcompressError(
                f"direction goes with a metric. Received: direction={direction!r} alone"
            )
        return None
    if len(model.outputs) != 1:
        raise TfcompressError(
            "metric= is for models with one output: give a tfcompress.Task with losses "
            f"and metrics by output. Received: {len(model.outputs)} outputs"
        )
    known = _known(metric)
    direction = direction or DIRECTIONS.get(getattr(known, "_direction", None) or "")
    if direction is None:
        raise TfcompressError(
            "Keras does not say whether more or less of this metric is better: give "
            f"direction='max' or 'min'. Received: metric={_name(metric)!r}"
        )
    loss = getattr(model, "loss", None)
    by_class = loss is None or "crossentropy" in _name(loss).replace("_", "").lower()
    return Task(
        loss=loss,
        metrics=[metric],
        monitor=_name(metric),
        mode=direction,
        divergence=output_divergence if by_class else regression_divergence,
    )


def _known(metric: Metric) -> keras.metrics.Metric | None:
    """The metric as Keras has it, which may say what is better."""
    if isinstance(metric, keras.metrics.Metric):
        return metric
    if not isinstance(metric, str):
        return None
    # `compile` finds the kind of accuracy by the shapes.
    name = "binary_accuracy" if metric in ("accuracy", "acc") else metric
    try:
        found = keras.metrics.get(name)
    except ValueError as error:
        raise TfcompressError(
            "Keras knows no such metric: give a name of keras.metrics, a function or a "
            f"keras.metrics.Metric. Received: metric={metric!r}"
        ) from error
    return found if isinstance(found, keras.metrics.Metric) else None


def _name(thing: Any) -> str:
    """What `compile` calls a metric or a loss."""
    if isinstance(thing, str):
        return thing
    return getattr(thing, "name", None) or getattr(
        thing, "__name__", type(thing).__name__
    )
