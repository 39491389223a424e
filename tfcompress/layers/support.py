"""Small parts that layer types are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.errors import RankError

# Arguments that every factorized layer takes over from the layer it replaces.
SHARED_CONFIG = (
    "name",
    "trainable",
    "dtype",
    "activation",
    "use_bias",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "bias_constraint",
)


def as_ranks(ranks: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Ranks as a tuple of `count` positive integers.

    Raises:
        RankError: wrong number of ranks, or one that is no positive integer.
    """
    several = isinstance(ranks, (Sequence, np.ndarray)) and not isinstance(ranks, str)
    given = tuple(ranks) if several else (ranks,)
    valid = all(
        isinstance(r, (int, np.integer)) and not isinstance(r, bool) and r >= 1
        for r in given
    )
    if len(given) != count or not valid:
        raise RankError(
            f"ranks must be {count} positive integer(s). Received: ranks={ranks}"
        )
    return tuple(int(r) for r in given)


def to_numpy(variable: Any) -> np.ndarray:
    """A weight as float32 (or float64) NumPy array, whatever its storage type."""
    value = ops.convert_to_numpy(variable)
    return value if value.dtype == np.float64 else np.asarray(value, np.float32)


def kernel_option(kernel_name: str, option: str) -> str:
    """Keras' name of an option of a kernel.

    Example:
        >>> kernel_option("pointwise_kernel", "regularizer")
        'pointwise_regularizer'
    """
    return f"{kernel_name.removesuffix('_kernel')}_{option}"


def unsupported_reason(
    layer: keras.layers.Layer, kernel_name: str = "kernel"
) -> str | None:
    """Reasons that hold for every layer type; None where there is none."""
    if not layer.built:
        return "it is not built"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"already quantized to {layer.quantization_mode}"
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled on it"
    if getattr(layer, kernel_option(kernel_name, "constraint")) is not None:
        return "its kernel constraint cannot hold on factors"
    return None


def stock_layer(
    cls: type, weights: list[np.ndarray], input_shape: tuple, **config: Any
) -> keras.layers.Layer:
    """A built stock layer with the given weights; for `expand`."""
    layer = cls(**config)
    layer.build(input_shape)
    layer.set_weights(weights)
    return layer
