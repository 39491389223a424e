"""Distillation losses, in float32 from log-softmax."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

# Probabilities below this carry no gradient that float32 could hold.
_SMALLEST = 1e-12


def as_logits(outputs: Any, kind: str) -> Any:
    """Logits in float32, up to a constant per sample.

    Args:
        outputs: model outputs of shape `(batch, classes)`.
        kind: "logits" or "probabilities".
    """
    outputs = tf.cast(outputs, tf.float32)
    if kind == "probabilities":
        return tf.math.log(tf.maximum(outputs, _SMALLEST))
    return outputs


def output_kind(model: keras.Model) -> str:
    """Whether a model ends in a softmax: "probabilities", else "logits"."""
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return output_kind(last)
    softmax = isinstance(last, keras.layers.Softmax)
    if softmax or getattr(last, "activation", None) is keras.activations.softmax:
        return "probabilities"
    return "logits"


def kl_divergence(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """`T² KL(teacher || student)` of the tempered distributions, per sample.

    The factor T² keeps gradients on one scale over temperatures (Hinton et al. 2015,
    section 2). Never negative; zero where the logits differ by a constant.

    Args:
        teacher_logits: shape `(batch, classes)`.
        student_logits: shape `(batch, classes)`.
        temperature: T > 0, for both.

    Returns:
        Float32 tensor of shape `(batch,)`.
    """
    teacher = tf.nn.log_softmax(tf.cast(teacher_logits, tf.float32) / temperature)
    student = tf.nn.log_softmax(tf.cast(student_logits, tf.float32) / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)
    # Rounding may leave -1e-9 where both agree.
    return temperature**2 * tf.maximum(divergence, 0.0)
