"""MUSCO's own schedule: passes over groups of layers, each weakened and fine-tuned."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.errors import NothingToCompressError, TfcompressError
from tfcompress.musco.result import Compression, Round
from tfcompress.musco.session import Progress, merged, specs_and_cost
from tfcompress.musco.start import start
from tfcompress.musco.task import Task
from tfcompress.ranks import VBMF, Budget, RankSelector
from tfcompress.spec import LayerSpec
from tfcompress.surgery import copy_model


def musco(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    selector: RankSelector | None = None,
    passes: int = 2,
    groups: int = 1,
    target: Budget | None = None,
    teacher: keras.Model | None = None,
    task: Task | None = None,
    calibration_steps: int = 0,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **tuning: Any,
) -> Compression:
    """Compresses a network by the schedule of MUSCO (Gusak et al. 2019, section 3).

    In every pass the layers are taken in groups, from the last to the first. The
    ranks of a group fall from the current ones towards the extreme ranks, weakened;
    then the whole network is recalibrated and fine-tuned, and the next group follows.
    Later passes use the noise variance of the first: on weights that were truncated
    EVBMF would take signal for noise. Every round is kept; there is no roll-back.

    Args:
        model: a trained, built Keras model; it is not changed.
        train: `tf.data.Dataset` of `(inputs, labels)` batches, or a tuple of arrays.
        validation: the same; measured, it decides nothing.
        selector: `VBMF()` by default, weakening factor 0.8; `Ratio(rate=2.0)` is the
            paper's constant compression rate.
        passes: over the whole network.
        groups: of layers in each pass; 1 compresses all at once, as the authors do
            for residual networks.
        target: stop after the pass that meets it, and within a pass aim no lower; a
            selector without a strength of its own is given steps towards it.
        teacher: network to match when fine-tuning; `model` by default.
        task: what the model is for; a classifier of integer labels by default.
        calibration_steps: training batches for factors that lose least of the layers'
            outputs; 0, as in the paper, takes factors that know only the weights.
        cache: see `progressive`.
        seed: of views and shuffling.
        progress: called as training goes on with (epochs done, epochs in all, figures).
        **tuning: of each fine-tuning, such as `epochs` or `by="labels"`: see
            `FineTuning`.

    Returns:
        A `Compression` with one round for each group of each pass.

    Raises:
        NothingToCompressError: the first pass leaves every layer as it is.
        TfcompressError: arguments out of range.

    Example:
        >>> result = musco(model, (x, y), (xv, yv), passes=3,  # doctest: +SKIP
        ...                selector=VBMF(weakening=0.6), epochs=5)
    """
    if passes < 1 or groups < 1:
        raise TfcompressError(
            "passes and groups must be at least 1. "
            f"Received: passes={passes}, groups={groups}"
        )
    session = start(
        model,
        train,
        validation,
        task=task,
        teacher=teacher,
        tuning=tuning,
        rounds=passes * groups,
        calibration_steps=calibration_steps,
        asymmetric=False,
        cache=cache,
        seed=seed,
        progress=progress,
    )
    selector = selector or VBMF()
    original = session.measure(model)
    specs, dense = specs_and_cost(model)
    grouped = _groups(specs, groups)
    current = copy_model(model)
    notes: dict[str, Any] = {}
    history: list[Round] = []
    for number in range(passes):
        for wanted in grouped:
            specs, cost = specs_and_cost(current)
            budget = _step(target, cost, dense, passes - number)
            scores = session.profile(current, sensitivity=selector.needs_sensitivity)
            known = merged(notes, scores)
            plan = selector.select(_only(specs, wanted), budget, known)
            notes = plan.scores() | notes
            if plan.choices():
                current, found = session.attempt(
                    current, plan, scores, index=len(history), budget=budget
                )
                history.append(found)
        if number == 0 and not history:
            raise NothingToCompressError(
                f"Nothing in model '{model.name}' can be made smaller by "
                f"{type(selector).__name__}: choose another rank selector or a larger "
                "weakening factor."
            )
        _, cost = specs_and_cost(current)
        if target is not None and target.met(cost, dense):
            break
    _, final = specs_and_cost(current)
    return Compression(
        model=current,
        target_met=target is None or target.met(final, dense),
        history=tuple(history),
        original=original,
        cost=final,
        original_cost=dense,
        monitor=session.task.monitor,
    )


def _groups(specs: Sequence[LayerSpec], count: int) -> list[set[str]]:
    """Paths of the layers that can be factorized in groups, the last ones first."""
    names = [spec.name for spec in specs if spec.reason is None]
    parts = np.array_split(np.array(names, dtype=object), min(count, len(names) or 1))
    return [set(part) for part in parts[::-1]]


def _step(
    target: Budget | None, cost: Any, dense: Any, passes_left: int
) -> Budget | None:
    if target is None:
        return None
    return target.toward(cost, dense, 1.0 / passes_left)


def _only(specs: Sequence[LayerSpec], wanted: set[str]) -> list[LayerSpec]:
    """Layers with all but the wanted ones closed to the selector."""
    reason = "its group has its turn in another round"
    return [
        spec
        if spec.reason is not None or spec.name in wanted
        else dataclasses.replace(spec, options=(), reason=reason)
        for spec in specs
    ]
