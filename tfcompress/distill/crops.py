"""Crops, colour and mixtures of images: pure functions, in the graph, for XLA.

A crop with resizing is two small matrix products per image, and therefore linear: it
commutes exactly with mixup, as does colour with one factor for both images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfcompress.distill.draws import uniform
from tfcompress.distill.spec import ViewSpec

# Side of the paper's random and central crops: 224 of 256 pixels (Beyer et al. 2021,
# section 3.1.1), and the smallest side of "mild".
PAPER_SIDE = 0.875
_INCEPTION_RATIO = (0.75, 4.0 / 3.0)
# Rec. 601, as in `tf.image.rgb_to_grayscale`.
_LUMINANCE = (0.2989, 0.587, 0.114)


class Boxes(NamedTuple):
    """Crops of a batch, in fractions of the image; each field has shape `(batch,)`."""

    top: Any
    left: Any
    height: Any
    width: Any
    flip: Any


def sample_boxes(samples: Any, key: Any, spec: ViewSpec, *, stream: int = 0) -> Boxes:
    """Random crops.

    Args:
        samples: integer tensor `(batch,)`, which samples: see `uniform`.
        key: integer tensor of shape `(2,)`; the same key gives the same boxes.
        spec: which kind of crop, and whether to mirror.
        stream: see `uniform`.
    """
    draw = uniform(samples, key, stream=stream, count=5)
    if spec.crop == "inception":
        area = spec.smallest_area + draw[0] * (1.0 - spec.smallest_area)
        low, high = (tf.math.log(r) for r in _INCEPTION_RATIO)
        ratio = tf.exp(low + draw[1] * (high - low))
        height = tf.minimum(tf.sqrt(area / ratio), 1.0)
        width = tf.minimum(tf.sqrt(area * ratio), 1.0)
    elif spec.crop == "mild":
        height = width = 1.0 - (1.0 - PAPER_SIDE) * draw[0]
    else:
        side = PAPER_SIDE if spec.crop == "random" else 1.0
        height = width = tf.fill(tf.shape(draw[0]), side)
    flip = draw[4] < 0.5 if spec.flip else tf.zeros_like(draw[4], tf.bool)
    return Boxes(draw[2] * (1.0 - height), draw[3] * (1.0 - width), height, width, flip)


def central_boxes(samples: Any) -> Boxes:
    """The central 7/8 of each side, for each sample."""
    side = tf.fill(tf.shape(samples), PAPER_SIDE)
    start = (1.0 - side) / 2.0
    return Boxes(start, start, side, side, tf.zeros_like(side, tf.bool))


def full_boxes(count: Any) -> Boxes:
    """The whole image, for each of so many."""
    zeros = tf.zeros((count,))
    return Boxes(zeros, zeros, zeros + 1.0, zeros + 1.0, tf.cast(zeros, tf.bool))


def _resampling(start: Any, length: Any, flip: Any, n_in: Any, n_out: Any) -> Any:
    """Rows of linear interpolation weights: shape `(batch, n_out, n_in)`.

    Where the crop shrinks, the triangle widens with the scale: no aliasing.
    """
    place = (tf.range(n_out, dtype=tf.float32) + 0.5) / tf.cast(n_out, tf.float32)
    place = tf.where(flip[:, None], 1.0 - place, place)
    size = tf.cast(n_in, tf.float32)
    centre = (start[:, None] + place * length[:, None]) * size - 0.5
    support = tf.maximum(length * size / tf.cast(n_out, tf.float32), 1.0)
    pixels = tf.range(n_in, dtype=tf.float32)
    distance = tf.abs(centre[:, :, None] - pixels)
    weights = tf.nn.relu(1.0 - distance / support[:, None, None])
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def crop_and_resize(images: Any, boxes: Boxes, size: tuple[Any, Any]) -> Any:
    """Crops each image, mirrors it where asked, and resizes it.

    Linear interpolation with antialiasing, as two matrix products per image.

    Args:
        images: float tensor `(batch, height, width, channels)`.
        boxes: one crop per image.
        size: `(height, width)` of the result, pixels.

    Returns:
        Tensor `(batch, *size, channels)` of the type of `images`.
    """
    shape = tf.shape(images)
    still = tf.zeros_like(boxes.flip)
    rows = _resampling(boxes.top, boxes.height, still, shape[1], size[0])
    columns = _resampling(boxes.left, boxes.width, boxes.flip, shape[2], size[1])
    rows, columns = (tf.cast(m, images.dtype) for m in (rows, columns))
    # As plain products of matrices: an einsum of all three takes half as long again.
    batch, high, wide, channels = tf.unstack(shape)
    found = tf.matmul(rows, tf.reshape(images, (batch, high, wide * channels)))
    found = tf.reshape(found, (batch, size[0], wide, channels))
    found = tf.reshape(
        tf.transpose(found, (0, 2, 1, 3)), (batch, wide, size[0] * channels)
    )
    found = tf.reshape(tf.matmul(columns, found), (batch, size[1], size[0], channels))
    found = tf.transpose(found, (0, 2, 1, 3))
    known = [n if isinstance(n, int) else None for n in size]
    return tf.ensure_shape(found, (images.shape[0], *known, images.shape[3]))


def recolour(images: Any, draw: Any, strength: float) -> Any:
    """Brightness, contrast and, of three channels, saturation; nothing is clipped.

    Args:
        images: float tensor `(batch, height, width, channels)`, with black at zero.
        draw: `(3, batch)`, uniform in [0, 1).
        strength: factors lie in [1 - strength, 1 + strength].
    """
    factors = tf.cast(1.0 + strength * (2.0 * draw - 1.0), images.dtype)
    brightness, contrast, saturation = (f[:, None, None, None] for f in factors)
    if images.shape[-1] == 3:
        grey = tf.tensordot(images, tf.constant(_LUMINANCE, images.dtype), 1)[..., None]
        images = grey + saturation * (images - grey)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return brightness * (mean + contrast * (images - mean))


def mixup(images: Any, share: Any) -> Any:
    """`share * image + (1 - share) * previous image` (Zhang et al. 2018).

    The partner comes from rolling the batch by one, which pairs each image with
    another exactly once; reversing the batch would pair images twice.

    Args:
        images: float tensor `(batch, ...)`.
        share: scalar, or one per sample, `(batch,)`.
    """
    share = tf.cast(share, images.dtype)
    if share.shape.rank == 1:
        share = tf.reshape(share, (-1, *[1] * (images.shape.rank - 1)))
    return share * images + (1.0 - share) * tf.roll(images, 1, axis=0)
