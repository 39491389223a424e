"""Accuracy of a classifier, and how far it agrees with its teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distill.losses import as_logits, kl_divergence, output_kind
from tfcompress.trace import input_specs


def classify(model: keras.Model) -> Any:
    """A compiled function from images to logits, in inference mode.

    Args:
        model: gives logits or probabilities `(batch, classes)`.

    Returns:
        A function of inputs that gives float32 logits `(batch, classes)`.

    Example:
        >>> tuple(classify(model)(images).shape)
        (32, 10)
    """
    kind = output_kind(model)
    # One graph for every batch size, the last and smaller one included.
    signature = input_specs(model, batch=None)
    forward = tf.function(
        lambda images: as_logits(model(images, training=False), kind),
        input_signature=[signature],
    )

    def logits(images: Any) -> Any:
        # Keras casts its inputs (bytes of pixels, float64 arrays); a signature not.
        cast = tf.nest.map_structure(
            lambda s, x: tf.cast(x, s.dtype), signature, images
        )
        return forward(cast)

    return logits


def evaluate(
    model: keras.Model, batches: Iterable[Any], *, teacher: keras.Model | None = None
) -> dict[str, float]:
    """Accuracy, and against a teacher agreement and divergence.

    Args:
        model: gives logits or probabilities `(batch, classes)`.
        batches: `(images, integer labels)`.
        teacher: the network to compare with, or None.

    Returns:
        `accuracy` in [0, 1] and `samples`; with a teacher also `agreement` (share of
        samples with the same class) and `kl` (mean KL(teacher || model), nats).

    Raises:
        ValueError: no batches.

    Example:
        >>> evaluate(model, [(images, labels)], teacher=model)
        {'accuracy': 0..., 'samples': 32, 'agreement': 1.0, 'kl': 0.0}
    """
    student = classify(model)
    reference = None if teacher is None else classify(teacher)
    right, same, divergence, count = 0, 0, 0.0, 0
    for images, labels in batches:
        logits = student(images)
        classes = np.argmax(logits, axis=-1)
        right += int(np.sum(classes == np.reshape(labels, (-1,))))
        count += len(classes)
        if reference is not None:
            expected = reference(images)
            same += int(np.sum(np.argmax(expected, axis=-1) == classes))
            divergence += float(tf.reduce_sum(kl_divergence(expected, logits)))
    if count == 0:
        raise ValueError("There is nothing to evaluate on: no batches.")
    figures = {"accuracy": right / count, "samples": count}
    if teacher is not None:
        figures |= {"agreement": same / count, "kl": divergence / count}
    return figures
