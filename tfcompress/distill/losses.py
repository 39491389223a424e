"""Distillation losses, in float32 from log-softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.spec import LOSS_NAMES

# Probabilities below this carry no gradient that float32 could hold.
_SMALLEST = 1e-12

OutputLoss = Callable[[Any, Any, float], Any]

# What an output may be: scores or probabilities of classes; scores or probabilities of
# yes or no, each on its own; or values that are no classes.
KINDS = ("logits", "probabilities", "binary_logits", "binary_probabilities", "values")


def as_logits(outputs: Any, kind: str) -> Any:
    """Logits in float32, up to a constant per sample; values as they are.

    Args:
        outputs: model outputs of shape `(batch, ..., classes)`.
        kind: one of `KINDS`. Binary outputs get a last axis of two classes.

    Returns:
        Float32 tensor `(batch, ..., classes)`.

    Example:
        >>> as_logits(np.array([[0.5, 0.5]]), "probabilities").numpy().round(2)
        array([[-0.69, -0.69]], dtype=float32)
    """
    outputs = tf.cast(outputs, tf.float32)
    if kind == "probabilities":
        return tf.math.log(tf.maximum(outputs, _SMALLEST))
    if kind == "binary_probabilities":
        sides = (1.0 - outputs, outputs)
        return tf.stack([tf.math.log(tf.maximum(x, _SMALLEST)) for x in sides], -1)
    if kind == "binary_logits":
        return tf.stack([tf.zeros_like(outputs), outputs], -1)
    return outputs


def output_kind(model: keras.Model) -> str:
    """Whether a model ends in a softmax: "probabilities", else "logits".

    Args:
        model: a built model; its last layer is looked at.

    Example:
        >>> output_kind(model)
        'probabilities'
    """
    return _layer_kind(model.layers[-1], softmax_only=True)


def output_kinds(model: keras.Model) -> list[str]:
    """The kind of each output of a model, in the order of `tf.nest.flatten`.

    Told by the last layers: softmax gives probabilities, sigmoid binary ones; outputs
    with a last axis of one number are values, others logits.
    """
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) == 1:
        layers, shapes = [model.layers[-1]], [getattr(model, "output_shape", None)]
    else:
        layers = [tensor._keras_history.operation for tensor in outputs]
        shapes = [tensor.shape for tensor in outputs]
    return [
        "values" if kind == "logits" and shape is not None and shape[-1] == 1 else kind
        for kind, shape in zip(map(_layer_kind, layers), shapes, strict=True)
    ]


def _layer_kind(layer: Any, *, softmax_only: bool = False) -> str:
    if isinstance(layer, keras.Model):
        return _layer_kind(layer.layers[-1], softmax_only=softmax_only)
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Softmax):
        return "probabilities"
    if activation is keras.activations.softmax:
        return "probabilities"
    if activation is keras.activations.sigmoid and not softmax_only:
        return "binary_probabilities"
    return "logits"


def kl_divergence(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """`T² KL(teacher || student)` of the tempered distributions, per sample.

    The factor T² keeps gradients on one scale over temperatures (Hinton et al. 2015,
    section 2). Never negative; zero where the logits differ by a constant.

    Args:
        teacher_logits: shape `(batch, classes)`; or `(batch, ..., classes)`, whose
            places are averaged.
        student_logits: the same shape.
        temperature: T > 0, for both.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Example:
        >>> teacher, student = np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]])
        >>> kl_divergence(teacher, student).numpy().round(3)
        array([0.], dtype=float32)
    """
    teacher, student = _log_softmax(teacher_logits, student_logits, temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)
    # Rounding may leave -1e-9 where both agree.
    return temperature**2 * _per_sample(tf.maximum(divergence, 0.0))


def reverse_kl_divergence(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """`T² KL(student || teacher)`: seeks one mode; see `kl_divergence`."""
    return kl_divergence(student_logits, teacher_logits, temperature)


def js_divergence(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """`T²` times the Jensen-Shannon divergence: symmetric, at most log 2 nats.

    Args and result: see `kl_divergence`.
    """
    teacher, student = _log_softmax(teacher_logits, student_logits, temperature)
    middle = tf.reduce_logsumexp(tf.stack([teacher, student]), axis=0) - tf.math.log(
        2.0
    )
    both = tf.exp(teacher) * (teacher - middle) + tf.exp(student) * (student - middle)
    divergence = 0.5 * tf.reduce_sum(both, axis=-1)
    return temperature**2 * _per_sample(tf.maximum(divergence, 0.0))


def hard_divergence(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """Cross-entropy with the teacher's class alone (DeiT: Touvron et al. 2021).

    Args and result: see `kl_divergence`; the temperature is not used.
    """
    classes = tf.argmax(teacher_logits, axis=-1)
    student = tf.cast(student_logits, tf.float32)
    return _per_sample(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, student))


def logit_error(
    teacher_logits: Any, student_logits: Any, temperature: float = 1.0
) -> Any:
    """Mean squared difference of centred logits: KL at high temperature, but for a
    factor (Hinton et al. 2015, section 2.1).

    Args and result: see `kl_divergence`; the temperature is not used.
    """
    teacher, student = (
        tf.cast(x, tf.float32) - tf.reduce_mean(tf.cast(x, tf.float32), -1, True)
        for x in (teacher_logits, student_logits)
    )
    return _per_sample(tf.reduce_mean(tf.square(teacher - student), axis=-1))


def squared_error(teacher: Any, student: Any, temperature: float = 1.0) -> Any:
    """Mean squared difference of outputs as they are: for regression.

    Args:
        teacher: outputs `(batch, ...)`.
        student: the same shape.
        temperature: not used.

    Returns:
        Float32 tensor of shape `(batch,)`.
    """
    difference = tf.cast(teacher, tf.float32) - tf.cast(student, tf.float32)
    return _per_sample(tf.square(difference))


# By name; each takes (teacher, student, temperature) and gives one value per sample.
LOSSES: dict[str, OutputLoss] = dict(
    zip(
        LOSS_NAMES,
        (
            kl_divergence,
            reverse_kl_divergence,
            js_divergence,
            hard_divergence,
            logit_error,
            squared_error,
        ),
        strict=True,
    )
)


def _log_softmax(teacher: Any, student: Any, temperature: float) -> tuple[Any, Any]:
    return (
        tf.nn.log_softmax(tf.cast(teacher, tf.float32) / temperature),
        tf.nn.log_softmax(tf.cast(student, tf.float32) / temperature),
    )


def _per_sample(values: Any) -> Any:
    rank = values.shape.rank
    return values if rank == 1 else tf.reduce_mean(values, axis=list(range(1, rank)))
