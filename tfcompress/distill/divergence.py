"""How far the outputs of a network are from those of another, for any structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfcompress.distill.losses import as_logits, kl_divergence
from tfcompress.errors import TfcompressError

Divergence = Callable[[Any, Any], Any]

# How far from 1 the sum of probabilities may be: bfloat16 holds three digits.
_ROUNDING = 1e-2
# Share of the mean square that variance has of nothing but rounding in float32.
_CONSTANT = 1e-10


def output_divergence(reference: Any, found: Any) -> Any:
    """How far outputs are from the original ones: one number for all of them.

    Class outputs (last axis of two or more) count by KL divergence, from
    probabilities where they are such, else from logits; others by squared error
    relative to the variance of the original output. Several outputs are added up.

    Args:
        reference: outputs of the original network, any structure.
        found: outputs of the changed one.

    Raises:
        TfcompressError: different numbers or shapes of outputs.

    Returns:
        A scalar tensor; 0 where the outputs are the same.

    Example:
        >>> reference = np.array([[0.5, 0.5]])
        >>> round(float(output_divergence(reference, np.array([[0.9, 0.1]]))), 2)
        0.51
    """
    return _total(_class_divergence, reference, found)


def regression_divergence(reference: Any, found: Any) -> Any:
    """As `output_divergence`, with relative squared errors for every output.

    Args:
        reference: outputs of the original network, any structure.
        found: outputs of the changed one.

    Raises:
        TfcompressError: different numbers or shapes of outputs.

    Example:
        >>> reference, found = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]])
        >>> float(regression_divergence(reference, found))
        0.5
    """
    return _total(_relative_error, reference, found)


def _total(divergence: Divergence, reference: Any, found: Any) -> Any:
    right, now = tf.nest.flatten(reference), tf.nest.flatten(found)
    if len(right) != len(now):
        raise TfcompressError(
            "Only networks with equally many outputs can be compared. "
            f"Received: {len(right)} and {len(now)} outputs"
        )
    values = []
    for old, new in zip(right, now, strict=True):
        old, new = tf.cast(old, tf.float32), tf.cast(new, tf.float32)
        # They would broadcast: one number against five classes is no distance at all.
        if not old.shape.is_compatible_with(new.shape):
            raise TfcompressError(
                "Only outputs of one shape can be compared. "
                f"Received: shapes {tuple(old.shape)} and {tuple(new.shape)}"
            )
        values.append(divergence(old, new))
    return tf.add_n(values)


def _relative_error(old: Any, new: Any) -> Any:
    spread, power = tf.math.reduce_variance(old), tf.reduce_mean(tf.square(old))
    # Outputs that do not vary, as of a batch of one, count relative to their size.
    spread = tf.where(spread > _CONSTANT * power, spread, power)
    return tf.reduce_mean(tf.square(old - new)) / tf.maximum(spread, 1e-12)


def _class_divergence(old: Any, new: Any) -> Any:
    if len(old.shape) < 2 or (old.shape[-1] or 0) < 2:
        return _relative_error(old, new)
    sums = tf.reduce_sum(old, axis=-1)
    certain = tf.reduce_all(tf.abs(sums - 1.0) < _ROUNDING)
    probable = certain & tf.reduce_all(old >= 0.0)
    kinds = [
        tf.reduce_mean(kl_divergence(as_logits(old, k), as_logits(new, k)))
        for k in ("probabilities", "logits")
    ]
    return tf.where(probable, *kinds)
