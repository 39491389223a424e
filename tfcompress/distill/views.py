"""Views: what teacher and student see of one batch.

A view is a pure function of the images and, for each sample, of (seed, epoch, sample):
no state, no Python randomness, all in the graph, compiled by XLA. Each image is cropped
on the original, resized for either network from the same box, and mixed with one lambda
and one permutation for both.

Modes after Beyer et al. 2021, "Knowledge distillation: A good teacher is patient and
consistent", section 3.1.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfcompress.distill.crops import (
    Boxes,
    central_boxes,
    crop_and_resize,
    full_boxes,
    mixup,
    recolour,
    sample_boxes,
)
from tfcompress.distill.draws import uniform
from tfcompress.distill.spec import ViewError, ViewSpec

# Streams of random numbers: independent of each other.
_STUDENT, _TEACHER, _COLOUR, _TEACHER_COLOUR, _MIX, _ENSEMBLE = range(6)

Size = tuple[int, int]
ViewFunction = Callable[[Any, Any], Any]


class Views(NamedTuple):
    """What both networks see.

    Attributes:
        teacher: inputs; images of shape `(batch, height, width, channels)`.
        student: inputs; in consistent modes and at one size equal to `teacher` bit for
            bit.
        mix: share of each sample itself in the mixture: a scalar or `(batch,)`; 1.0
            without mixup. The partner of sample i is sample i - 1.

    Example:
        >>> views = make_views(images, (0, 0), ViewSpec(mode="consistent"))
        >>> views.teacher is views.student, float(views.mix)
        (True, 1.0)
    """

    teacher: Any
    student: Any
    mix: Any = 1.0


def make_views(
    inputs: Any,
    key: Any,
    spec: ViewSpec | ViewFunction,
    *,
    samples: Any = None,
    teacher_size: Size | None = None,
    student_size: Size | None = None,
) -> Views:
    """The views of one batch: a pure function of inputs, key, samples and spec.

    Args:
        inputs: images `(batch, height, width, channels)`; integers become float32. Or
            any structure of inputs: every image in it is seen through the same crop,
            other floats are only mixed, others only passed on.
        key: integer tensor of shape `(2,)`, such as (seed, epoch); or `(2, batch)`
            where the samples are of different epochs.
        spec: the modes; or a function `view(inputs, key)` that returns what both
            networks see, or a `Views`.
        samples: integer tensor `(batch,)`: which samples these are. By default their
            places in the batch: then the key must change from batch to batch.
        teacher_size, student_size: `(height, width)` of the views; the images' own by
            default.

    Returns:
        `Views`; one tensor serves both networks in the consistent modes at one size.

    Raises:
        ViewError: inputs that cannot be cropped or mixed as the spec says.

    Example:
        >>> views = make_views(images, (0, 0), ViewSpec(), student_size=(4, 4))
        >>> tuple(views.teacher.shape), tuple(views.student.shape)
        ((32, 8, 8, 1), (32, 4, 4, 1))
    """
    if not isinstance(spec, ViewSpec):
        views = spec(inputs, key)
        return views if isinstance(views, Views) else Views(views, views)
    sizes = (teacher_size, student_size)
    moves = spec.crop != "none" or spec.flip or spec.colour or any(sizes)
    if not moves and spec.mode != "function_matching" and spec.teacher == "whole":
        # Nothing to draw: inputs of any kind, token ids or several, stay as they are.
        return Views(inputs, inputs)
    parts = [_as_floats(x) for x in tf.nest.flatten(inputs)]
    if moves and not any(x.shape.rank == 4 for x in parts):
        raise ViewError(
            "Only images (batch, height, width, channels) can be cropped and mirrored; "
            "for other inputs use ViewSpec(mode='consistent', crop='none'). "
            f"Received: inputs of shape {[tuple(x.shape) for x in parts]}"
        )
    if samples is None:
        samples = tf.range(tf.shape(parts[0])[0])
    teacher, student = _both(parts, key, spec, samples, sizes)
    share = tf.constant(1.0)
    if spec.mode == "function_matching":
        share = _share(samples, key, spec)
        same = teacher is student
        student = [_mixed(x, share) for x in student]
        teacher = student if same else [_mixed(x, share) for x in teacher]
    pack = tf.nest.pack_sequence_as
    packed = pack(inputs, student)
    return Views(packed if teacher is student else pack(inputs, teacher), packed, share)


def ensemble_view(
    inputs: Any, seed: Any, spec: ViewSpec, index: Any, *, samples: Any, size: Any
) -> Any:
    """One of the `teacher_crops` crops of the ensemble: the same in every epoch.

    Args:
        inputs, samples: see `make_views`.
        seed: integer scalar.
        spec: its crop and flip.
        index: which crop, in [0, teacher_crops).
        size: `(height, width)`, or None.
    """
    key = tf.stack([tf.cast(seed, tf.int32), tf.cast(index, tf.int32)])
    parts = [_as_floats(x) for x in tf.nest.flatten(inputs)]
    boxes = sample_boxes(samples, key, spec, stream=_ENSEMBLE)
    return tf.nest.pack_sequence_as(inputs, [_cropped(x, boxes, size) for x in parts])


def _both(
    parts: list[Any], key: Any, spec: ViewSpec, samples: Any, sizes: tuple[Any, Any]
) -> tuple[list[Any], list[Any]]:
    """Teacher's and student's inputs before mixing; one list where they are equal."""

    def seen(size: Any, stream: int, colour_stream: int) -> list[Any]:
        boxes = None
        if spec.crop != "none" or spec.flip:
            boxes = sample_boxes(samples, key, spec, stream=stream)
        found = [_cropped(x, boxes, size) for x in parts]
        if spec.colour:
            draw = uniform(samples, key, stream=colour_stream, count=3)
            found = [
                recolour(x, draw, spec.colour) if x.shape.rank == 4 else x
                for x in found
            ]
        return found

    student = seen(sizes[1], _STUDENT, _COLOUR)
    if spec.mode == "fixed":
        boxes = central_boxes(samples) if spec.teacher == "central" else None
        return [_cropped(x, boxes, sizes[0]) for x in parts], student
    if spec.mode == "independent":
        return seen(sizes[0], _TEACHER, _TEACHER_COLOUR), student
    if _same_size(*sizes, parts):
        return student, student
    return seen(sizes[0], _STUDENT, _COLOUR), student


def _cropped(x: Any, boxes: Boxes | None, size: Size | None) -> Any:
    if x.shape.rank != 4 or (boxes is None and size in (None, _size(x))):
        return x
    if boxes is None:
        boxes = full_boxes(tf.shape(x)[0])
    return crop_and_resize(x, boxes, size or _size(x))


def _share(samples: Any, key: Any, spec: ViewSpec) -> Any:
    """Lambda of each sample, or that of the batch's first for all."""
    if spec.mixup == "sample":
        return uniform(samples, key, stream=_MIX, count=1)[0]
    first = key[:, :1] if tf.convert_to_tensor(key).shape.rank == 2 else key
    return uniform(samples[:1], first, stream=_MIX, count=1)[0, 0]


def _mixed(x: Any, share: Any) -> Any:
    if not x.dtype.is_floating:
        raise ViewError(
            "Mixup is a weighted mean: inputs that are no floats (token ids) have "
            "none. Use ViewSpec(mode='consistent'). "
            f"Received: an input of type {x.dtype.name}"
        )
    return mixup(x, share)


def _as_floats(x: Any) -> Any:
    """Images of bytes become float32; other inputs stay what they are."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank == 4 and not x.dtype.is_floating:
        return tf.cast(x, tf.float32)
    return x


def _size(images: Any) -> Any:
    """`(height, width)`: numbers where they are known, or else tensors."""
    height, width = images.shape[1:3]
    if None in (height, width):
        return tuple(tf.unstack(tf.shape(images)[1:3]))
    return height, width


def _same_size(teacher: Size | None, student: Size | None, parts: list[Any]) -> bool:
    if teacher == student:
        return True
    if None not in (teacher, student):
        return False
    # One is given, the other network takes the images as they are.
    given = teacher or student
    known = [tuple(x.shape[1:3]) for x in parts if x.shape.rank == 4]
    return all(size == given for size in known)


def describe(spec: ViewSpec | ViewFunction) -> dict[str, Any]:
    """The specification as plain data, for what is kept beside cached results.

    Raises:
        ViewError: a function, which cannot be described.
    """
    if isinstance(spec, ViewSpec):
        return dataclasses.asdict(spec)
    raise ViewError("A view function has no description: give a ViewSpec.")
