"""The iterative loop: plan, factorize, recalibrate, fine-tune, accept or roll back.

After MUSCO (Gusak et al. 2019, "Automated multi-stage compression of neural
networks"), with function matching against the original network as the fine-tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress.cost import layer_specs
from tfcompress.distill import (
    Distiller,
    ViewSpec,
    epochs_and_steps,
    evaluate,
    fit,
)
from tfcompress.errors import NothingToCompressError, TfcompressError
from tfcompress.ranks import Budget, Energy, Plan, RankSelector
from tfcompress.spec import Cost
from tfcompress.surgery import copy_model, factorize, recalibrate_batch_norm

Progress = Callable[[float, int, dict[str, float]], None]
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of the loop.

    Attributes:
        budget: where this round was to bring the model, relative to the original.
        plan: what was done to every layer.
        factorized: validation figures right after factorization.
        recalibrated: after batch-norm recalibration.
        fine_tuned: after fine-tuning.
        accepted: whether the result was kept.
        reason: why it was rolled back, or None.
    """

    budget: Budget
    plan: Plan
    factorized: Figures
    recalibrated: Figures
    fine_tuned: Figures
    accepted: bool
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The round as plain data, its plan in full."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return data | {"budget": self.budget.limits(), "plan": self.plan.to_dict()}


@dataclasses.dataclass(frozen=True)
class Compression:
    """What `compress` returns.

    Attributes:
        model: the smallest model that was accepted; a copy of the original where
            none was.
        target_met: whether it is within the target.
        history: every round, those rolled back included.
        original: validation figures of the original model.
        cost: cost of `model`.
        original_cost: cost of the original model.
    """

    model: keras.Model
    target_met: bool
    history: tuple[Round, ...]
    original: Figures
    cost: Cost
    original_cost: Cost

    @property
    def plan(self) -> Plan | None:
        """The plan of the last accepted round, or None."""
        accepted = [r.plan for r in self.history if r.accepted]
        return accepted[-1] if accepted else None

    def summary(self) -> str:
        """A few lines of text: cost, accuracy and rounds."""
        lines = []
        for name in ("params", "macs"):
            old, new = getattr(self.original_cost, name), getattr(self.cost, name)
            lines.append(
                f"{name}: {old:,} -> {new:,} ({old / max(new, 1):.2f}x smaller)"
            )
        kept = [r.fine_tuned for r in self.history if r.accepted]
        last = kept[-1] if kept else self.original
        lines.append(
            "validation accuracy: "
            f"{self.original['accuracy']:.4f} -> {last['accuracy']:.4f}"
        )
        rolled_back = len(self.history) - len(kept)
        lines.append(f"rounds: {len(kept)} accepted, {rolled_back} rolled back")
        lines.append("target met" if self.target_met else "target NOT met")
        return "\n".join(lines)


def as_batches(data: Any, batch_size: int, *, seed: int | None) -> tf.data.Dataset:
    """Batches from a `tf.data.Dataset` (returned as it is) or from arrays.

    Args:
        data: a dataset of `(images, labels)` batches, or a tuple of arrays.
        batch_size: for arrays.
        seed: for arrays: of the shuffling; None keeps the order.

    Raises:
        TfcompressError: neither of both.
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
    size = len(data[0])
    dataset = dataset.shuffle(size, seed=seed)
    return dataset.batch(min(batch_size, size), drop_remainder=True)


def compress(
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
    views: ViewSpec | None = None,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    epochs: int | None = None,
    steps: int | None = None,
    fine_tuning: tuple[int, int] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    recalibration_steps: int = 32,
    seed: int = 0,
    jit_compile: Any = "auto",
    progress: Progress | None = None,
) -> Compression:
    """Compresses a classifier in rounds of factorization and fine-tuning.

    Each round plans ranks for a budget on the way to the target, factorizes,
    recalibrates batch norm and fine-tunes by distillation. It is accepted if the
    validation accuracy is at most `max_drop` below the original's; otherwise it is
    rolled back and tried again with half the step.

    Args:
        model: a trained, built Keras classifier; it is not changed.
        train: `tf.data.Dataset` of `(images, labels)` batches, or a tuple of arrays.
        validation: the same; decides which rounds are accepted. Not the test data.
        target: what the result may cost, relative to `model`.
        max_drop: accepted loss of validation accuracy, absolute (0.01 is one point).
        selector: how ranks are chosen; `Energy()` by default.
        rounds: in how many rounds to go to the target.
        retries: how many rolled back rounds are tried again.
        teacher: network to match when fine-tuning; `model` by default.
        views: what teacher and student see; a mild consistent crop by default.
        temperature, label_weight: see `Distiller`.
        epochs: epochs of fine-tuning in each round; 10 where neither is given.
        steps: about how many steps; with both, the longer.
        fine_tuning: `(epochs, steps per epoch)` instead of both, for data without a
            length.
        learning_rate, weight_decay: see `make_optimizer`.
        batch_size: where the data are arrays.
        recalibration_steps: batches for batch-norm recalibration.
        seed: of views and shuffling.
        jit_compile: as in `keras.Model.compile`.
        progress: called as training goes on with (epochs done, epochs in all, figures).

    Returns:
        A `Compression`: the best model so far, whether the target was met, and the
        history of all rounds.

    Raises:
        NothingToCompressError: no layer can be made smaller.
        UnsupportedModelError: the model cannot be rebuilt.
        DistillationError: teacher and model do not fit.

    Example:
        >>> result = compress(model, (x, y), (xv, yv),        # doctest: +SKIP
        ...                   target=Budget(macs=0.4))
        >>> result.model.save("smaller.keras")                # doctest: +SKIP
    """
    if rounds < 1 or retries < 0 or not max_drop >= 0:
        raise TfcompressError(
            "rounds must be at least 1, retries and max_drop not negative. Received: "
            f"rounds={rounds}, retries={retries}, max_drop={max_drop}"
        )
    train = as_batches(train, batch_size, seed=seed)
    validation = as_batches(validation, batch_size, seed=None)
    selector = selector or Energy()
    teacher = teacher or model
    if fine_tuning is None:
        count = 10 if epochs is None and steps is None else epochs
        fine_tuning = epochs_and_steps(
            steps=steps, epochs=count, steps_per_epoch=_steps_per_epoch(train, steps)
        )
    epochs, per_epoch = fine_tuning

    def measure(candidate: keras.Model) -> Figures:
        return evaluate(candidate, validation, teacher=teacher)

    def fine_tune(candidate: keras.Model, attempt: int) -> None:
        distiller = Distiller(
            candidate,
            teacher,
            views=views or ViewSpec(mode="consistent", crop="mild", flip=False),
            temperature=temperature,
            label_weight=label_weight,
            seed=seed + attempt,
        )
        fit(
            distiller,
            train,
            None,
            epochs=epochs,
            steps_per_epoch=per_epoch,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            jit_compile=jit_compile,
            progress=_shifted(progress, attempt, rounds, epochs),
        )

    original = measure(model)
    specs = layer_specs(model)
    dense = _total([spec.cost for spec in specs])
    stock = _total([spec.dense for spec in specs])
    current = copy_model(model)
    scores: dict[str, Any] = {}
    history: list[Round] = []
    accepted = failures = failures_here = 0
    while accepted < rounds and failures <= retries:
        specs = layer_specs(current)
        cost = _total([spec.cost for spec in specs])
        share = 0.5**failures_here / (rounds - accepted)
        budget = target.toward(cost, dense, share)
        plan = selector.select(specs, _relative(budget, dense, stock), scores)
        if not plan.choices():
            if not history:
                raise NothingToCompressError(_nothing(model, plan))
            break
        candidate = factorize(current, plan.choices())
        factorized = measure(candidate)
        candidate = recalibrate_batch_norm(candidate, train, steps=recalibration_steps)
        recalibrated = measure(candidate)
        fine_tune(candidate, len(history))
        figures = measure(candidate)
        drop = original["accuracy"] - figures["accuracy"]
        good = drop <= max_drop + 1e-9
        reason = None if good else f"accuracy fell by {drop:.4f}, allowed {max_drop}"
        history.append(
            Round(budget, plan, factorized, recalibrated, figures, good, reason)
        )
        if good:
            current, accepted, failures_here = candidate, accepted + 1, 0
            # The first round's findings hold: they are of the untouched weights.
            scores = plan.scores() | scores
        else:
            failures, failures_here = failures + 1, failures_here + 1
    final = _total([spec.cost for spec in layer_specs(current)])
    return Compression(
        model=current,
        target_met=target.met(final, dense),
        history=tuple(history),
        original=original,
        cost=final,
        original_cost=dense,
    )


def _total(costs: list[Cost]) -> Cost:
    return Cost(*map(sum, zip(*costs, strict=True)))


def _relative(budget: Budget, dense: Cost, stock: Cost) -> Budget:
    """The same budget as fractions of `stock` instead of `dense`.

    Plans count from stock layers: it matters where the model to compress holds
    factorized layers already.
    """
    if stock == dense:
        return budget
    limits = {
        name: min(limit * getattr(dense, name) / max(getattr(stock, name), 1), 1.0)
        for name, limit in budget.limits().items()
    }
    return Budget(**limits)


def _steps_per_epoch(train: tf.data.Dataset, steps: int | None) -> int:
    size = int(train.cardinality())
    if size > 0:
        return size
    if steps is None:
        raise TfcompressError(
            "The training data do not tell their length: give steps, or use "
            "train.apply(tf.data.experimental.assert_cardinality(n))."
        )
    # Of unknown or endless length: one "epoch" per hundredth of the training.
    return max(steps // 100, 1)


def _nothing(model: keras.Model, plan: Plan) -> str:
    reasons = sorted(
        {row.reason or "factorized already" for row in plan.rows if row.dense.params}
    )
    return (
        f"Nothing in model '{model.name}' can be made smaller under the budget "
        f"{plan.budget.describe()}: {'; '.join(reasons[:3])}. Choose a smaller budget "
        "or another rank selector."
    )


def _shifted(
    progress: Progress | None, attempt: int, rounds: int, epochs: int
) -> Progress | None:
    if progress is None:
        return None
    total = max(rounds, attempt + 1) * epochs

    def report(epoch: float, _: int, figures: dict[str, float]) -> None:
        progress(attempt * epochs + epoch, total, figures | {"round": attempt + 1})

    return report
