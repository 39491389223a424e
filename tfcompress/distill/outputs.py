"""The outputs of student and teacher: what kind they are, and how they are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.losses import (
    KINDS,
    LOSSES,
    OutputLoss,
    as_logits,
    output_kinds,
)
from tfcompress.errors import TfcompressError, nearest


class DistillationError(TfcompressError, ValueError):
    """Teacher and student do not fit together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """One output of the student.

    Attributes:
        name: of the output.
        kind: what the student gives: one of `KINDS`.
        loss: `loss(teacher, student, temperature)`, one value per sample.
    """

    name: str
    kind: str
    loss: OutputLoss

    @property
    def classes(self) -> bool:
        """Whether it tells classes, and not values."""
        return self.kind != "values"


def outputs_of(
    student: keras.Model, *, kinds: Any = None, losses: Any = None
) -> list[Output]:
    """The outputs of a student.

    Args:
        student: a built model.
        kinds: one of `KINDS` for all outputs, or one for each as a list, or by the
            output's name; None: found from the last layers.
        losses: a key of `LOSSES` or a function, likewise; None: "kl" for classes,
            "squared_error" for values.

    Raises:
        DistillationError: an unknown kind or loss.
    """
    names = output_names(student)
    found = []
    by_kind = kinds_of(student, kinds)
    by_loss = _for_each(losses, names, "loss")
    for name, kind, loss in zip(names, by_kind, by_loss, strict=True):
        if loss is None:
            loss = "squared_error" if kind == "values" else "kl"
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise DistillationError(
                    f"No distillation loss '{loss}'; {nearest(loss, LOSSES)}"
                )
            loss = LOSSES[loss]
        found.append(Output(name=name, kind=kind, loss=loss))
    return found


def kinds_of(model: keras.Model, kinds: Any = None) -> list[str]:
    """The kind of each output: as said, or found from the model.

    Raises:
        DistillationError: an unknown kind.
    """
    found = output_kinds(model)
    said = _for_each(kinds, output_names(model), "kind of output")
    for kind in said:
        if kind is not None and kind not in KINDS:
            raise DistillationError(
                f"No kind of output '{kind}'; {nearest(kind, KINDS)}"
            )
    return [kind or own for kind, own in zip(said, found, strict=True)]


def output_names(model: keras.Model) -> list[str]:
    """Names of a model's outputs, in the order of `tf.nest.flatten`."""
    functional = getattr(model, "inputs", None) and not isinstance(
        model, keras.Sequential
    )
    if functional and isinstance(model.output, Mapping):
        return sorted(model.output)
    names = list(getattr(model, "output_names", None) or ["output"])
    # Two outputs of one layer share its name.
    return [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]


def _for_each(value: Any, names: Sequence[str], what: str) -> list[Any]:
    if isinstance(value, Mapping):
        for name in value:
            if name not in names:
                raise DistillationError(f"No output '{name}'; {nearest(name, names)}")
        return [value.get(name) for name in names]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(names):
            raise DistillationError(
                f"Give one {what} for each output. "
                f"Received: {len(value)} for the outputs {', '.join(names)}"
            )
        return list(value)
    return [value] * len(names)


def labels_of(labels: Any, outputs: Sequence[Output]) -> list[Any]:
    """Labels for each output: None where there are none.

    Args:
        labels: None, one tensor, a list, or a mapping by output name.
        outputs: of the student.

    Raises:
        DistillationError: labels of another number of outputs.
    """
    return _for_each(labels, [o.name for o in outputs], "tensor of labels")


def comparable(outputs: Any, kinds: Sequence[str]) -> list[Any]:
    """Outputs of a model as logits (of classes) or float32 values, as a flat list."""
    return [
        as_logits(x, kind)
        for x, kind in zip(tf.nest.flatten(outputs), kinds, strict=True)
    ]


def label_loss(output: Output, labels: Any, logits: Any, share: Any) -> Any:
    """Loss by (mixed) labels, per sample.

    Args:
        output: which output.
        labels: class numbers `(batch, ...)`, distributions of the shape of `logits`,
            0 or 1 for binary outputs, or values.
        logits: what `comparable` gave for the student.
        share: see `Views.mix`.
    """

    def of(y: Any) -> Any:
        if not output.classes:
            y = tf.reshape(tf.cast(y, tf.float32), tf.shape(logits))
            return _mean(tf.square(y - logits))
        if is_distribution(y, logits):
            return _mean(
                tf.nn.softmax_cross_entropy_with_logits(tf.cast(y, tf.float32), logits)
            )
        y = tf.reshape(tf.cast(y, tf.int32), tf.shape(logits)[:-1])
        return _mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

    labels = tf.convert_to_tensor(labels)
    return share * of(labels) + (1.0 - share) * of(tf.roll(labels, 1, axis=0))


def weighted_mean(values: Any, sample_weight: Any) -> Any:
    """Mean over the batch of values `(batch,)` times the weight of each sample."""
    if sample_weight is None:
        return tf.reduce_mean(values)
    weight = tf.reshape(tf.cast(sample_weight, values.dtype), (-1,))
    return tf.reduce_mean(values * weight)


def is_distribution(labels: Any, logits: Any) -> bool:
    """Whether labels are one-hot or soft, of the shape of the logits."""
    return labels.shape.rank == logits.shape.rank and (
        labels.shape[-1] == logits.shape[-1] and logits.shape[-1] > 1
    )


def right(labels: Any, logits: Any) -> Any:
    """Share of right classes of each sample: `(batch,)`."""
    labels = tf.convert_to_tensor(labels)
    if is_distribution(labels, logits):
        labels = tf.argmax(labels, -1)
    labels = tf.reshape(tf.cast(labels, tf.int64), tf.shape(logits)[:-1])
    return _mean(tf.cast(tf.argmax(logits, -1) == labels, tf.float32))


def agreement(teacher: Any, student: Any, *, k: int = 1) -> Any:
    """Whether the teacher's class is among the student's first k, per sample."""
    best = tf.argmax(teacher, axis=-1, output_type=tf.int32)
    if k == 1:
        same = tf.argmax(student, axis=-1, output_type=tf.int32) == best
    else:
        first = tf.math.top_k(student, k).indices
        same = tf.reduce_any(first == best[..., None], axis=-1)
    return _mean(tf.cast(same, tf.float32))


def _mean(values: Any) -> Any:
    """Mean over all places of a sample."""
    rank = values.shape.rank
    return values if rank == 1 else tf.reduce_mean(values, axis=list(range(1, rank)))
