"""What the training stages share: their fields, the checks of these, the schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfcompress.distill.spec import ViewSpec
from tfcompress.errors import OptionError, RecipeError
from tfcompress.metric import CLASSIFICATION
from tfcompress.stages.base import Context, Stage

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfcompress.data import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Stage):
    """Base of stages that train.

    Args:
        steps: about how many training steps.
        epochs: how many epochs; with both, the longer.
        batch_size: images per step.
        learning_rate: its peak.
        weight_decay: decoupled, as in Beyer et al. 2021, table 4.
        views: crops, flips and mixup.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    views: ViewSpec = dataclasses.field(default_factory=ViewSpec)

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1. Received: {value}")
        check_number("learning_rate", self.learning_rate, positive=True)
        check_number("weight_decay", self.weight_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationTraining(Training):
    """Base of stages that train a student to match a teacher.

    Args:
        temperature: of both distributions, above 0.
        label_weight: weight of the cross-entropy with the labels; 0 uses none.
    """

    temperature: float = 1.0
    label_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, positive=True)
        check_number("label_weight", self.label_weight)


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """Raises unless the value is finite and not negative.

    Args:
        name: what the error calls it.
        value: the number.
        positive: zero is out of range too.

    Raises:
        OptionError: out of range.
    """
    if not (math.isfinite(value) and value >= 0 and (value > 0 or not positive)):
        bound = "positive" if positive else "zero or positive"
        raise OptionError(f"{name} must be {bound}. Received: {value}")


def check_for_classifiers(stage: Stage, data: Dataset, *names: str) -> None:
    """Raises where options that only classification knows are set for another task.

    Args:
        stage: the stage.
        data: says what the task is.
        names: fields of the stage.

    Raises:
        OptionError: one that is not as by default.
    """
    if data.task == CLASSIFICATION:
        return
    defaults = type(stage)()
    for name in names:
        value = getattr(stage, name)
        if value != getattr(defaults, name):
            raise OptionError(
                f"{stage.name}: {name} is for classification, and data set "
                f"'{data.name}' is for {data.task}: leave it out. Received: {value}"
            )


def check_classification(what: str, data: Dataset) -> None:
    """Raises unless the data are for classification.

    Raises:
        OptionError: for another task.
    """
    if data.task != CLASSIFICATION:
        raise OptionError(
            f"{what} is for classification, and data set '{data.name}' is for "
            f"{data.task}. Of other tasks, compress the network and export it with "
            "quantization 'int8'."
        )


def rank(task: Any, figures: Mapping[str, float]) -> tuple[float, float]:
    """What to choose by: by the metric, then by how closely the teacher is matched."""
    value = figures[task.metric.key]
    closeness = -figures["kl" if "kl" in figures else "divergence"]
    return (value if task.metric.mode == "max" else -value), closeness


def train_in(
    stage: Training,
    context: Context,
    trainer: keras.Model,
    validation: tf.data.Dataset | None,
    *,
    default_steps: int,
    **options: Any,
) -> dict[str, list[float]]:
    """Trains as a stage says, going on where a stopped run of it was.

    Args:
        stage: the stage.
        context: has the data, the seed and the folder.
        trainer: a `Distiller` or `Supervised`.
        validation: batches, or None.
        default_steps: where the stage says neither steps nor epochs.
        options: further arguments of `fit`.

    Returns:
        Figures by name, one value per epoch; see `fit`.
    """
    from tfcompress.distill import fit

    train, epochs, steps = schedule(stage, context, default_steps=default_steps)
    checkpoint = context.folder / "checkpoint.npz"
    history = fit(
        trainer,
        train,
        validation,
        epochs=epochs,
        steps_per_epoch=steps,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        progress=context.progress,
        checkpoint=checkpoint,
        **options,
    )
    checkpoint.unlink()
    return history


def schedule(
    stage: Training, context: Context, *, default_steps: int
) -> tuple[tf.data.Dataset, int, int]:
    """Shuffled training batches, epochs and steps per epoch of a training stage.

    Args:
        stage: the stage.
        context: has the data and the seed.
        default_steps: where the stage says neither steps nor epochs.

    Raises:
        RecipeError: not one step.
    """
    from tfcompress.distill import epochs_and_steps

    size = context.data.sizes["train"]
    batch_size = min(stage.batch_size, size)
    steps = stage.steps
    if steps is None and stage.epochs is None:
        steps = default_steps
    try:
        epochs, per_epoch = epochs_and_steps(
            steps=steps, epochs=stage.epochs, steps_per_epoch=size // batch_size
        )
    except ValueError as error:
        raise RecipeError(f"{stage.name}: {error}") from error
    train = context.data.batches(
        "train", batch_size, shuffle_seed=context.seed, repeat=True
    )
    return train, epochs, per_epoch
