"""What the training stages share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfcompress.errors import RecipeError
from tfcompress.stages.base import Context

if TYPE_CHECKING:
    import tensorflow as tf


def schedule(
    stage: Any, context: Context, *, default_steps: int
) -> tuple[tf.data.Dataset, int, int]:
    """Shuffled training batches, epochs and steps per epoch of a training stage.

    Args:
        stage: has `steps`, `epochs` and `batch_size`.
        context: has the data and the seed.
        default_steps: where the stage says neither steps nor epochs.

    Raises:
        RecipeError: both steps and epochs, or not positive.
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
