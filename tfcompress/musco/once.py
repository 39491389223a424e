"""One factorization, without fine-tuning: for those who train in a way of their own."""

from __future__ import annotations

import os
from typing import Any

import keras

from tfcompress.musco.session import specs_and_cost
from tfcompress.musco.start import start
from tfcompress.musco.task import Task
from tfcompress.ranks import Budget, Budgeted, Plan, RankSelector


def factorize_once(
    model: keras.Model,
    train: Any,
    *,
    target: Budget,
    selector: RankSelector | None = None,
    task: Task | None = None,
    calibration_steps: int = 16,
    asymmetric: bool = True,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
) -> tuple[keras.Model, Plan]:
    """Plans ranks for a budget, factorizes, and recalibrates batch norm.

    What `compress` does before it trains.

    Args:
        model: a trained, built Keras model; it is not changed.
        train: `tf.data.Dataset` of `(inputs, labels)` batches, or a tuple of arrays.
        target: what the result may cost, relative to `model`.
        selector: how ranks are chosen; `Budgeted()` by default.
        task, calibration_steps, asymmetric, cache, seed: as in `compress`.

    Returns:
        A new model, and what was done to every layer. A plan without choices changes
        nothing.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt.

    Example:
        >>> small, plan = factorize_once(                        # doctest: +SKIP
        ...     model, train, target=Budget(macs=0.5))
    """
    session = start(
        model,
        train,
        train,
        task=task,
        teacher=None,
        # Not used: nothing is trained.
        tuning={"epochs": 1, "steps_per_epoch": 1},
        rounds=1,
        calibration_steps=calibration_steps,
        asymmetric=asymmetric,
        cache=cache,
        seed=seed,
        progress=None,
    )
    selector = session.prepared(selector or Budgeted(), target)
    specs, _ = specs_and_cost(model)
    scores = session.profile(model, sensitivity=selector.needs_sensitivity)
    plan = selector.select(specs, target, scores)
    return session.recalibrated(session.factorized(model, plan, scores)), plan
