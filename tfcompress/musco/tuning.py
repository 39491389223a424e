"""How the rounds are fine-tuned: lengths, rates, views; and the learning-rate probe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill import epochs_and_steps, fit
from tfcompress.distill.spec import ViewSpec
from tfcompress.errors import TfcompressError
from tfcompress.surgery import copy_model

# Learning rates the probe tries, and the steps it gives each.
PROBED_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
PROBE_STEPS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Fine-tuning of one round.

    Args:
        by: "distillation" (matching the teacher) or "labels".
        epochs: epochs in each round; 10 where neither these nor steps are given.
        steps: about how many steps in each round; with both, the longer.
        steps_per_epoch: for data without a length.
        learning_rate: its peak; or "probe": the best of a few, after a few steps of
            each, chosen anew in every round.
        weight_decay: decoupled, on the product of the factors; see `make_optimizer`.
        views: what teacher and student see; by default a mild consistent crop of
            images, and other inputs as they are. Of classifiers: a `Task` has its own.
        temperature: of classifiers; see `Distiller`.
        label_weight: see `Distiller` and `Matching`.
        batch_size: where the data are arrays.
        jit_compile: as in `keras.Model.compile`.

    Raises:
        TfcompressError: an argument out of range.

    Example:
        >>> tuning = FineTuning(by="labels", epochs=5)
        >>> tuning.length(as_batches((images, labels), 16, seed=0))
        (5, 2)
    """

    by: str = "distillation"
    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    learning_rate: float | str = 1e-3
    weight_decay: float = 1e-4
    views: ViewSpec | None = None
    temperature: float = 1.0
    label_weight: float = 0.0
    batch_size: int = 128
    jit_compile: Any = "auto"

    def __post_init__(self) -> None:
        if self.by not in ("distillation", "labels"):
            raise TfcompressError(
                f"Fine-tune by 'distillation' or 'labels'. Received: by={self.by!r}"
            )
        rate = self.learning_rate
        if rate != "probe" and not (isinstance(rate, float | int) and 0 < rate < 1e3):
            raise TfcompressError(
                "learning_rate must be a positive number, or 'probe'. "
                f"Received: learning_rate={rate!r}"
            )
        for name in ("epochs", "steps", "steps_per_epoch", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TfcompressError(f"{name} must be at least 1. Received: {value}")
        if not self.temperature > 0:
            raise TfcompressError(
                "temperature must be positive. "
                f"Received: temperature={self.temperature}"
            )
        for name in ("weight_decay", "label_weight"):
            value = getattr(self, name)
            if not value >= 0:
                raise TfcompressError(
                    f"{name} must not be negative. Received: {name}={value}"
                )

    def length(self, train: tf.data.Dataset) -> tuple[int, int]:
        """`(epochs, steps per epoch)` on the given training data.

        Raises:
            TfcompressError: data without a length and nothing that tells it.
        """
        nothing = self.epochs is None and self.steps is None
        return epochs_and_steps(
            steps=self.steps,
            epochs=10 if nothing else self.epochs,
            steps_per_epoch=self.steps_per_epoch or _steps_per_epoch(train, self.steps),
        )


def _steps_per_epoch(train: tf.data.Dataset, steps: int | None) -> int:
    size = int(train.cardinality())
    if size > 0:
        return size
    if steps is None:
        raise TfcompressError(
            "The training data do not tell their length: give steps or "
            "steps_per_epoch, or use "
            "train.apply(tf.data.experimental.assert_cardinality(n))."
        )
    # Of unknown or endless length: one "epoch" per hundredth of the training.
    return max(steps // 100, 1)


def probe_learning_rate(
    model: keras.Model,
    make_trainer: Callable[[keras.Model], tuple[keras.Model, dict[str, Any]]],
    train: tf.data.Dataset,
    score: Callable[[keras.Model], float],
    *,
    rates: tuple[float, ...] = PROBED_RATES,
    steps: int = PROBE_STEPS,
    weight_decay: float = 1e-4,
    jit_compile: Any = "auto",
) -> float:
    """The learning rate that brings a model furthest in a few steps.

    Args:
        model: where fine-tuning starts; it is not changed.
        make_trainer: gives the trainer of a model and arguments for its `compile`.
        train: batches.
        score: of a model on validation data; more is better.
        rates: learning rates to try.
        steps: training steps of each.
        weight_decay, jit_compile: see `fit`.
    """
    scores = {}
    for rate in rates:
        candidate = copy_model(model)
        trainer, options = make_trainer(candidate)
        fit(
            trainer,
            train,
            None,
            epochs=1,
            steps_per_epoch=steps,
            learning_rate=rate,
            weight_decay=weight_decay,
            jit_compile=jit_compile,
            compile_options=options,
        )
        found = score(candidate)
        scores[rate] = found if math.isfinite(found) else -math.inf
    return max(scores, key=scores.__getitem__)
