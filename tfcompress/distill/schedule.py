"""Optimizer and schedule of the paper, with its weight decay converted for Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.distill.adam import Adam
from tfcompress.distill.soap import SOAP
from tfcompress.distill.spec import ALGORITHMS
from tfcompress.errors import OptionError, nearest


def make_optimizer(
    *,
    steps: int,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    warmup_steps: int | None = None,
    clip_norm: float = 1.0,
    algorithm: str = "adam",
    undecayed: Sequence[Any] = (),
) -> keras.optimizers.Optimizer:
    """Adam (or SOAP), cosine schedule with warm-up, decoupled decay, global clipping.

    Beyer et al. 2021, section 3. Their code subtracts `weight_decay * weight` times
    the schedule's factor in [0, 1]; Keras multiplies by the learning rate as well. So
    Keras gets `weight_decay / learning_rate`. Biases and normalization scales do not
    decay.

    Args:
        steps: length of the training, steps.
        learning_rate: its peak.
        weight_decay: as in the paper's Table 4.
        warmup_steps: steps of linear warm-up; 5 % of `steps` by default.
        clip_norm: largest global norm of the gradient.
        algorithm: "adam", or "soap" (see `SOAP`).
        undecayed: further variables that do not decay.

    Returns:
        A Keras optimizer.

    Raises:
        OptionError: an argument out of range.

    Example:
        >>> optimizer = make_optimizer(steps=1000, learning_rate=1e-2)
        >>> round(optimizer.weight_decay, 6)
        0.01
    """
    if not (steps >= 1 and learning_rate > 0 and weight_decay >= 0 and clip_norm > 0):
        raise OptionError(
            "steps, learning_rate and clip_norm must be positive, weight_decay not "
            f"negative. Received: steps={steps}, learning_rate={learning_rate}, "
            f"weight_decay={weight_decay}, clip_norm={clip_norm}"
        )
    if algorithm not in ALGORITHMS:
        raise OptionError(
            f"No algorithm '{algorithm}'; {nearest(algorithm, ALGORITHMS)}"
        )
    warmup = max(steps // 20, 1) if warmup_steps is None else warmup_steps
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(steps - warmup, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    make = Adam if algorithm == "adam" else SOAP
    optimizer = make(
        schedule,
        weight_decay=weight_decay / learning_rate,
        global_clipnorm=clip_norm,
    )
    # The end of the path, for a layer may bear such a name as well.
    names = [rf"(^|/){name}(:\d+)?$" for name in ("bias", "gamma", "beta")]
    optimizer.exclude_from_weight_decay(var_list=list(undecayed), var_names=names)
    return optimizer
