"""Views: the crops, flips and mixtures that teacher and student see.

A view is a pure function of the images and a key made of (seed, step): no state, no
Python randomness, all in the graph, compiled by XLA. A crop with resizing is two small
matrix products per image, and therefore linear: it commutes exactly with mixup.

Modes after Beyer et al. 2021, "Knowledge distillation: A good teacher is patient and
consistent", section 3.1.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfcompress.distill.spec import ViewError, ViewSpec

# Smallest side of the crop in "mild": the usual 224 of 256 pixels. The paper crops
# always that much, and evaluates on a central crop of the same size; here the whole
# image is evaluated, so the whole image has to be among the views.
_MILD_SIDE = 0.875
_INCEPTION_RATIO = (0.75, 4.0 / 3.0)


class Views(NamedTuple):
    """What both networks see.

    Attributes:
        teacher: images of shape `(batch, height, width, channels)`.
        student: images; in consistent modes equal to `teacher` bit for bit.
        mix: share of each image itself in the mixture, scalar; 1.0 without mixup. The
            partner of image i is image i - 1.
    """

    teacher: Any
    student: Any
    mix: Any


class Boxes(NamedTuple):
    """Crops of a batch, in fractions of the image; each field has shape `(batch,)`."""

    top: Any
    left: Any
    height: Any
    width: Any
    flip: Any


def _uniform(shape: Any, key: Any) -> Any:
    """Uniform in [0, 1), the same with XLA and without.

    Both draw the same bits but make other floats of them; here, the upper 24 bits.
    """
    bits = tf.random.stateless_uniform(
        shape, key, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    upper = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(upper, tf.float32) * 2.0**-24


def sample_boxes(count: Any, key: Any, spec: ViewSpec) -> Boxes:
    """Random crops.

    Args:
        count: number of crops.
        key: int32 tensor of shape `(2,)`; the same key gives the same boxes.
        spec: which kind of crop, and whether to mirror.
    """
    draw = _uniform((5, count), key)
    if spec.crop == "inception":
        area = spec.smallest_area + draw[0] * (1.0 - spec.smallest_area)
        low, high = (tf.math.log(r) for r in _INCEPTION_RATIO)
        ratio = tf.exp(low + draw[1] * (high - low))
        height = tf.minimum(tf.sqrt(area / ratio), 1.0)
        width = tf.minimum(tf.sqrt(area * ratio), 1.0)
    elif spec.crop == "mild":
        height = width = 1.0 - (1.0 - _MILD_SIDE) * draw[0]
    else:
        height = width = tf.ones((count,))
    flip = draw[4] < 0.5 if spec.flip else tf.zeros((count,), tf.bool)
    return Boxes(draw[2] * (1.0 - height), draw[3] * (1.0 - width), height, width, flip)


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


def crop_and_resize(images: Any, boxes: Boxes, size: tuple[int, int]) -> Any:
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
    return tf.einsum("bxw,byh,bhwc->byxc", columns, rows, images)


def mixup(images: Any, share: Any) -> Any:
    """`share * image + (1 - share) * previous image` (Zhang et al. 2018).

    The partner comes from rolling the batch by one, which pairs each image with
    another exactly once; reversing the batch would pair images twice.
    """
    share = tf.cast(share, images.dtype)
    return share * images + (1.0 - share) * tf.roll(images, 1, axis=0)


def make_views(
    images: Any, key: Any, spec: ViewSpec, size: tuple[int, int] | None = None
) -> Views:
    """The views of one batch: a pure function of images, key and spec.

    Args:
        images: tensor `(batch, height, width, channels)`; integers become float32.
        key: int32 tensor of shape `(2,)`, such as (seed, step).
        spec: the modes.
        size: `(height, width)` of the views; the images' own by default.

    Returns:
        `Views`; one tensor serves both networks in the consistent modes.
    """
    one = tf.constant(1.0)
    whole = spec.crop == "none" and not spec.flip and size in (None, _size(images))
    if whole and spec.mode != "function_matching":
        # Nothing to draw: inputs of any kind, token ids or several, stay as they are.
        return Views(images, images, one)
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        images = tf.cast(images, tf.float32)
    if not whole and images.shape.rank != 4:
        raise ViewError(
            "Only images (batch, height, width, channels) can be cropped and mirrored; "
            "for other inputs use ViewSpec(mode='consistent', crop='none'). "
            f"Received: inputs of shape {images.shape}"
        )
    count = tf.shape(images)[0]
    keys = tf.random.split(key, 3, alg="philox")

    def crop(index: int) -> Any:
        if whole:
            return images
        boxes = sample_boxes(count, keys[index], spec)
        return crop_and_resize(images, boxes, size or _size(images))

    student = crop(0)
    if spec.mode == "fixed":
        plain = size in (None, _size(images))
        return Views(images if plain else tf.image.resize(images, size), student, one)
    if spec.mode == "independent":
        return Views(crop(1), student, one)
    if spec.mode == "consistent":
        return Views(student, student, one)
    share = _uniform((), keys[2])
    student = mixup(student, share)
    return Views(student, student, share)


def _size(images: Any) -> Any:
    """`(height, width)`: numbers where they are known, or else tensors."""
    if not hasattr(images, "shape") or len(images.shape) != 4:
        return None
    height, width = images.shape[1:3]
    if None in (height, width):
        return tuple(tf.unstack(tf.shape(images)[1:3]))
    return height, width
