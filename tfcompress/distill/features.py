"""Extra losses beside the outputs: features, and the losses of `keras.distillation`."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.crops import crop_and_resize, full_boxes
from tfcompress.distill.outputs import DistillationError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureMatch:
    """A layer of the student whose output is to match that of a teacher's layer.

    The squared error relative to the variance of the teacher's features (Romero et al.
    2015, "FitNets", section 2.2, made free of scale). Where the numbers of channels
    differ, the student's are projected by a matrix that is trained along and not
    exported; images of different sizes are resized to the smaller.

    Args:
        teacher: name of a layer of the (first) teacher.
        student: name of a layer of the student.
        weight: of this loss.

    Raises:
        DistillationError: a weight that is not positive.

    Example:
        >>> match = FeatureMatch(teacher="stage3", student="stage2", weight=0.1)
        >>> distiller = Distiller(student, teacher, features=[match])  # doctest: +SKIP
    """

    teacher: str
    student: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise DistillationError(
                f"The weight of a feature match must be positive. "
                f"Received: {self.weight}"
            )


def projection(teacher: Any, student: Any, seed: int) -> keras.layers.Layer | None:
    """What brings the student's channels to the teacher's; None where none is needed.

    Args:
        teacher, student: shapes of the features, `(batch, ..., channels)`.
        seed: of its initial values.

    Raises:
        DistillationError: features of different rank.
    """
    if len(teacher) != len(student):
        raise DistillationError(
            "Only features of the same number of axes can be matched. "
            f"Received: shapes {tuple(teacher)} and {tuple(student)}"
        )
    if teacher[-1] == student[-1]:
        return None
    initializer = keras.initializers.GlorotUniform(seed=seed)
    layer = keras.layers.Dense(
        teacher[-1], use_bias=False, kernel_initializer=initializer, dtype="float32"
    )
    layer.build(student)
    return layer


def feature_error(teacher: Any, student: Any) -> Any:
    """Squared error relative to the variance of the teacher's features, per sample.

    Args:
        teacher: features `(batch, ..., channels)`.
        student: the same number of channels.

    Returns:
        Float32 tensor `(batch,)`.
    """
    teacher, student = (tf.cast(x, tf.float32) for x in (teacher, student))
    if teacher.shape.rank == 4 and teacher.shape[1:3] != student.shape[1:3]:
        teacher, student = _same_places(teacher, student)
    variance = tf.math.reduce_variance(teacher)
    axes = list(range(1, teacher.shape.rank))
    error = tf.reduce_mean(tf.square(teacher - student), axis=axes)
    return error / tf.maximum(variance, 1e-12)


def _same_places(teacher: Any, student: Any) -> tuple[Any, Any]:
    size = tuple(
        min(a, b) for a, b in zip(teacher.shape[1:3], student.shape[1:3], strict=True)
    )
    boxes = full_boxes(tf.shape(teacher)[0])
    return crop_and_resize(teacher, boxes, size), crop_and_resize(student, boxes, size)


def layer_names(loss: Any) -> tuple[str | None, str | None]:
    """The layers that a loss of `keras.distillation` looks at, (teacher, student).

    Both None where it looks at the outputs.

    Raises:
        DistillationError: not such a loss.
    """
    if not callable(getattr(loss, "compute_loss", None)):
        raise DistillationError(
            "An extra loss has a method compute_loss(teacher, student), as those of "
            f"keras.distillation have. Received: {type(loss).__name__}"
        )
    return (
        getattr(loss, "teacher_layer_name", None),
        getattr(loss, "student_layer_name", None),
    )


def unscaled(loss: Any, value: Any) -> Any:
    """The value of an extra loss as of one device.

    Keras divides what its Loss objects give by the number of replicas, but not what
    plain functions give; here everything is divided, once, at the end.
    """
    inner = keras.tree.flatten(getattr(loss, "loss", None))
    if any(isinstance(x, keras.losses.Loss) for x in inner):
        return value * tf.distribute.get_strategy().num_replicas_in_sync
    return value
