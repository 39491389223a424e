"""Proof that teacher and student see the same, for a given set-up."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.distill.spec import ViewError, ViewSpec
from tfcompress.distill.views import Size, ViewFunction, Views, make_views

# Largest difference between crops seen at two resolutions, in pixels of the original:
# resampling to an odd scale shifts single pixels by up to a fifth of one.
PIXELS = 0.3
# Largest difference between shares of a mixture.
SHARES = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency:
    """What `verify_consistency` found.

    Attributes:
        identical: whether both views were equal bit for bit; only at one resolution.
        pixels: largest distance between what the two networks see at one place of
            their view, in pixels of the original image.
        shares: largest difference between the shares of one image in both views.
        keys: how many (seed, epoch) pairs were tried.

    Example:
        >>> verify_consistency(ViewSpec(mode="consistent"), (4, 8, 8, 1), keys=2)
        Consistency(identical=True, pixels=0.0, shares=..., keys=2)
    """

    identical: bool
    pixels: float
    shares: float
    keys: int


def verify_consistency(
    spec: ViewSpec | ViewFunction,
    shape: tuple[int, int, int, int],
    *,
    teacher_size: Size | None = None,
    student_size: Size | None = None,
    seed: int = 0,
    keys: int = 16,
) -> Consistency:
    """Proves that teacher and student see the same crop and the same mixture.

    Views are functions of images: shown ramps instead of photographs, they tell where
    each output pixel comes from; shown one bright image in a dark batch, how much of it
    is in each mixture. Both are compared at either resolution.

    Args:
        spec: the view specification, or a view function; see `make_views`.
        shape: `(batch, height, width, channels)` of the images.
        teacher_size, student_size: see `make_views`.
        seed: of the views.
        keys: how many epochs to try.

    Returns:
        What was measured.

    Raises:
        ViewError: the views differ, or are not a pure function of the key.

    Example:
        >>> found = verify_consistency(ViewSpec(), (4, 8, 8, 1), keys=2)
        >>> found.identical, found.pixels
        (True, 0.0)
    """

    def views(images: np.ndarray, epoch: int) -> Views:
        return make_views(
            tf.constant(images),
            tf.constant([seed, epoch], tf.int32),
            spec,
            teacher_size=teacher_size,
            student_size=student_size,
        )

    probes = _probes(shape)
    identical, pixels, shares = True, 0.0, 0.0
    for epoch in range(keys):
        for name, images in probes.items():
            found, again = views(images, epoch), views(images, epoch)
            if not all(_equal(a, b) for a, b in zip(found, again, strict=True)):
                raise ViewError(
                    "The views are no pure function of (seed, epoch): the same key "
                    f"gave two results (epoch {epoch}). Draw by stateless functions."
                )
            identical &= _equal(found.teacher, found.student)
            difference = _difference(found, ramp=name != "share")
            if name == "share":
                shares = max(shares, difference)
            else:
                pixels = max(pixels, difference)
    if pixels > PIXELS or shares > SHARES:
        raise ViewError(
            f"Teacher and student do not see the same: crops differ by up to "
            f"{pixels:.2f} pixels, shares in the mixture by up to {shares:.3f}. "
            "Use mode 'consistent' or 'function_matching', and one crop for both."
        )
    return Consistency(identical=identical, pixels=pixels, shares=shares, keys=keys)


def _probes(shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    count, height, width, _ = shape
    ones = np.ones(shape, np.float32)
    bright = np.zeros(shape, np.float32)
    bright[0] = 1.0
    # One ramp for each direction; with offsets, images of a batch can be told apart.
    offsets = 10.0 * np.arange(count, dtype=np.float32)[:, None, None, None]
    return {
        "rows": ones * np.arange(height, dtype=np.float32)[:, None, None] + offsets,
        "columns": ones * np.arange(width, dtype=np.float32)[:, None] + offsets,
        "share": bright,
    }


def _equal(a: Any, b: Any) -> bool:
    parts = zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    return all(np.array_equal(x, y) for x, y in parts)


def _difference(views: Views, *, ramp: bool) -> float:
    """Largest difference of both views, each fitted by a plane where it is a ramp."""
    pairs = zip(
        tf.nest.flatten(views.teacher), tf.nest.flatten(views.student), strict=True
    )
    found = 0.0
    for teacher, student in pairs:
        if teacher.shape == student.shape:
            found = max(found, float(np.abs(teacher - student).max()))
        elif ramp:
            planes = [_plane(np.asarray(x, np.float64)) for x in (teacher, student)]
            found = max(found, float(np.abs(planes[0] - planes[1]).max()))
        else:
            means = [np.mean(x, axis=(1, 2)) for x in (teacher, student)]
            found = max(found, float(np.abs(means[0] - means[1]).max()))
    return found


def _plane(images: np.ndarray) -> np.ndarray:
    """Values at the corners of the plane fitted to the inner pixels of each image."""
    height, width = images.shape[1:3]
    y, x = ((np.arange(n) + 0.5) / n for n in (height, width))
    y, x = np.meshgrid(y, x, indexing="ij")
    # Antialiasing and the border bend the outermost pixels.
    edge = [n // 4 if n >= 6 else 0 for n in (height, width)]
    inner = np.s_[edge[0] : height - edge[0], edge[1] : width - edge[1]]
    design = np.stack([np.ones_like(y), y, x], -1)[inner].reshape(-1, 3)
    values = images[:, *inner].mean(-1).reshape(len(images), -1)
    fit = np.linalg.lstsq(design, values.T, rcond=None)[0]
    corners = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], np.float64)
    return corners @ fit
