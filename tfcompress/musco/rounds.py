"""Towards a budget in rounds, each accepted or rolled back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras

from tfcompress.errors import NothingToCompressError, TfcompressError
from tfcompress.musco.metric import Metric, task_of
from tfcompress.musco.result import Compression, Round
from tfcompress.musco.session import Progress, merged, specs_and_cost, total
from tfcompress.musco.start import start
from tfcompress.musco.task import Task
from tfcompress.ranks import Budget, Budgeted, Plan, RankSelector
from tfcompress.spec import Cost
from tfcompress.surgery import copy_model


def progressive(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    target: Budget,
    max_drop: float = 0.01,
    selector: RankSelector | None = None,
    rounds: int = 2,
    retries: int = 1,
    teacher: keras.Model | None = None,
    metric: Metric | None = None,
    direction: str | None = None,
    task: Task | None = None,
    calibration_steps: int = 16,
    asymmetric: bool = True,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **tuning: Any,
) -> Compression:
    """Compresses a network towards a budget in rounds; also called `compress`.

    Each round measures what the layers see and how sensitive the network is to them,
    plans ranks for a budget on the way to the target, factorizes, recalibrates batch
    norm and fine-tunes by distillation from the original. It is accepted if the
    validation accuracy is at most `max_drop` below the original's; otherwise it is
    rolled back and tried again with half the step.

    Args:
        model: a trained, built Keras model; it is not changed.
        train: `tf.data.Dataset` of `(inputs, labels)` batches, or a tuple of arrays.
        validation: the same; decides which rounds are accepted. Not the test data.
        target: what the result may cost, relative to `model`.
        max_drop: accepted loss of the validation figure, absolute (of an accuracy,
            0.01 is one point).
        selector: how ranks are chosen; `Budgeted()` by default.
        rounds: in how many rounds to go to the target.
        retries: how many rolled back rounds are tried again.
        teacher: network to match when fine-tuning; `model` by default.
        metric: what decides instead of a classifier's accuracy: any Keras metric, as
            for `compile`; the loss is the one that the model was compiled with.
        direction: "max" where more of the metric is better, "min" where less; by
            default what Keras says of it.
        task: what the model is for, where that takes more than a metric: several
            outputs, a loss or a divergence of your own. A classifier of integer labels
            by default.
        calibration_steps: training batches on which the layers' inputs are measured;
            0 takes factors that know only the weights.
        asymmetric: factors of a layer make up for what the layers before it have
            lost; takes up to 16 passes over these batches.
        cache: a folder that keeps measured sensitivities and latencies for a later
            run; None keeps nothing.
        seed: of views and shuffling.
        progress: called as training goes on with (epochs done, epochs in all, figures).
        **tuning: of each round's fine-tuning, such as `epochs`, `learning_rate`,
            `batch_size` or `by="labels"`: see `FineTuning`.

    Returns:
        A `Compression`: the best model so far, whether the target was met, and the
        history of all rounds.

    Raises:
        NothingToCompressError: no layer can be made smaller.
        UnsupportedModelError: the model cannot be rebuilt.
        DistillationError: teacher and model do not fit.
        TfcompressError: an option out of range; a metric that Keras does not know.

    Example:
        >>> result = progressive(model, (x, y), (xv, yv),     # doctest: +SKIP
        ...                      target=Budget(macs=0.4), epochs=5)
        >>> result.model.save("smaller.keras")                # doctest: +SKIP
    """
    if rounds < 1 or retries < 0 or not max_drop >= 0:
        raise TfcompressError(
            "rounds must be at least 1, retries and max_drop not negative. Received: "
            f"rounds={rounds}, retries={retries}, max_drop={max_drop}"
        )
    if task is not None and (metric is not None or direction is not None):
        raise TfcompressError(
            "A task names its own metric and mode: give task, or metric and direction."
        )
    session = start(
        model,
        train,
        validation,
        task=task or task_of(model, metric, direction),
        teacher=teacher,
        tuning=tuning,
        rounds=rounds,
        calibration_steps=calibration_steps,
        asymmetric=asymmetric,
        cache=cache,
        seed=seed,
        progress=progress,
    )
    selector = session.prepared(selector or Budgeted(), target)
    original = session.measure(model)
    specs, dense = specs_and_cost(model)
    stock = total(specs, "dense")
    current = copy_model(model)
    notes: dict[str, Any] = {}
    history: list[Round] = []
    accepted = failures = failures_here = 0
    scores: dict[str, Any] = {}
    latency_now = 1.0
    while accepted < rounds and failures <= retries:
        specs, cost = specs_and_cost(current)
        share = 0.5**failures_here / (rounds - accepted)
        budget = target.toward(cost, dense, share, latency_now=latency_now)
        if not failures_here:
            scores = session.profile(current, sensitivity=selector.needs_sensitivity)
        known = merged(notes, scores)
        plan = selector.select(specs, _relative(budget, dense, stock), known)
        if not plan.choices():
            if not history:
                raise NothingToCompressError(_nothing(model, plan))
            break
        candidate, found = session.attempt(
            current, plan, scores, index=len(history), budget=budget
        )
        drop = session.drop(original, found.result)
        if drop <= max_drop + 1e-9:
            current, accepted, failures_here = candidate, accepted + 1, 0
            if plan.latency is not None:
                latency_now = plan.latency.ratio
            # The first round's findings hold: they are of the untouched weights.
            notes = plan.scores() | notes
        else:
            failures, failures_here = failures + 1, failures_here + 1
            reason = (
                f"{session.task.monitor} is worse by {drop:.4f}, allowed {max_drop}"
            )
            found = dataclasses.replace(found, accepted=False, reason=reason)
        history.append(found)
    _, final = specs_and_cost(current)
    return Compression(
        model=current,
        target_met=target.met(final, dense)
        and latency_now <= (target.latency or 1.0) + 1e-9,
        history=tuple(history),
        original=original,
        cost=final,
        original_cost=dense,
        monitor=session.task.monitor,
    )


compress = progressive


def _relative(budget: Budget, dense: Cost, stock: Cost) -> Budget:
    """The same budget as fractions of `stock` instead of `dense`.

    Plans count from stock layers: it matters where the model to compress holds
    factorized layers already.
    """
    if stock == dense:
        return budget
    limits = budget.limits()
    for name in limits.keys() & Cost._fields:
        share = getattr(dense, name) / max(getattr(stock, name), 1)
        limits[name] = min(limits[name] * share, 1.0)
    return Budget(**limits)


def _nothing(model: keras.Model, plan: Plan) -> str:
    reasons = sorted(
        {row.reason or "factorized already" for row in plan.rows if row.dense.params}
    )
    return (
        f"Nothing in model '{model.name}' can be made smaller under the budget "
        f"{plan.budget.describe()}: {'; '.join(reasons[:3])}. Choose a smaller budget "
        "or another rank selector."
    )
