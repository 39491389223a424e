"""The methods that `benchmarks.peers` compares: each gives a smaller, tuned network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from benchmarks import iterative_vs_oneshot as rounds
from benchmarks.channel_pruning import prune_to_budget
from benchmarks.delivered_speedup import fixed_fraction
from benchmarks.networks import BATCH_SIZE
from benchmarks.pruned_size import sparsity_for_bytes
from benchmarks.tensorly_tucker import factorize_by_tensorly
from tfcompress.cost import layer_specs
from tfcompress.data import Dataset
from tfcompress.distill import Distiller, evaluate, fit
from tfcompress.quantize import Training, prune
from tfcompress.ranks import Budget
from tfcompress.surgery import factorize, recalibrate_batch_norm

# Batches for batch-norm statistics; as `compress` takes.
RECALIBRATION_STEPS = 32
# That of `fit`.
WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the methods of one cell are given.

    Attributes:
        model: the trained network.
        data: to fine-tune on.
        target: the budget.
        epochs: of fine-tuning.
        seed: of views and shuffling.
        file: the dense `.tflite` file.
        gzip_bytes: size of what tfcompress made of the network at this budget; None
            in its own cell.
    """

    model: keras.Model
    data: Dataset
    target: Budget
    epochs: int
    seed: int
    file: Path
    gzip_bytes: int | None

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.data.sizes["train"] // BATCH_SIZE

    def train(self) -> tf.data.Dataset:
        """Endless training batches."""
        return self.data.batches(
            "train", BATCH_SIZE, shuffle_seed=self.seed, repeat=True
        )


def _tfcompress(trial: Trial) -> keras.Model:
    return rounds.METHODS["one-shot Budgeted"](
        trial.target,
        trial.epochs,
        model=trial.model,
        train=trial.train(),
        validation=trial.data.batches("validation", 500),
        views=rounds.VIEWS,
        learning_rate=rounds.LEARNING_RATE,
        steps_per_epoch=trial.steps,
        jit_compile=False,
        seed=trial.seed,
    ).model


def _uniform(trial: Trial) -> keras.Model:
    plan = fixed_fraction(layer_specs(trial.model), trial.target)
    return _fine_tuned(trial, factorize(trial.model, plan.choices()))


def _tensorly(trial: Trial) -> keras.Model:
    return _fine_tuned(trial, factorize_by_tensorly(trial.model, trial.target))


def _channels(trial: Trial) -> keras.Model:
    return _fine_tuned(trial, prune_to_budget(trial.model, trial.target)[0])


def _tfmot(trial: Trial) -> keras.Model:
    if trial.gzip_bytes is None:
        raise SystemExit(
            "tfmot pruning aims at the file size of tfcompress: run that cell first."
        )
    pruned = prune(
        trial.model,
        trial.train(),
        sparsity=sparsity_for_bytes(
            trial.model, trial.file.read_bytes(), trial.gzip_bytes
        ),
        training=Training(
            epochs=trial.epochs,
            steps_per_epoch=trial.steps,
            learning_rate=rounds.LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            views=rounds.VIEWS,
            seed=trial.seed,
        ),
    )
    return _refreshed(trial, pruned)


def _fine_tuned(trial: Trial, small: keras.Model) -> keras.Model:
    """Recalibrated and distilled from the original, as `compress` does."""
    train = trial.train()
    student = recalibrate_batch_norm(small, train, steps=RECALIBRATION_STEPS)
    fit(
        Distiller(student, trial.model, views=rounds.VIEWS, seed=trial.seed),
        train,
        None,
        epochs=trial.epochs,
        steps_per_epoch=trial.steps,
        learning_rate=rounds.LEARNING_RATE,
        jit_compile=False,
    )
    return _refreshed(trial, student)


def _refreshed(trial: Trial, tuned: keras.Model) -> keras.Model:
    """With batch norm recalibrated once more where that is better, as `compress`."""
    fresh = recalibrate_batch_norm(tuned, trial.train(), steps=RECALIBRATION_STEPS)
    validation = trial.data.batches("validation", 500)
    found = [evaluate(one, validation)["accuracy"] for one in (tuned, fresh)]
    return fresh if found[1] > found[0] else tuned


# tfcompress first: its file size is the aim of tfmot.
METHODS: dict[str, Callable[[Trial], keras.Model]] = {
    "tfcompress": _tfcompress,
    "uniform ranks": _uniform,
    "tensorly-torch": _tensorly,
    "torch-pruning": _channels,
    "tfmot pruning": _tfmot,
}
