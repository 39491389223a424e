"""The cells of a single-shot detector: targets, loss, distance, and boxes from them.

After Zhou et al. 2019, "Objects as points" (section 3: a heat map with a peak for each
object, trained by a focal loss), with a box by the distances of its sides as in Tian et
al. 2019, "FCOS" (equation 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.models.pictures import BOX, STRIDE

# Of the peak around an object's middle: its standard deviation as a part of the sides.
_SPREAD = 0.12
# Cells at least this near to a middle learn the box.
_NEAR = 0.3
# Exponents of the focal loss, as in the paper.
_ALPHA, _BETA = 2.0, 4.0
_BOX_WEIGHT = 1.0
MOST_BOXES = 20


def detection_loss(boxes: Any, cells: Any) -> Any:
    """Focal loss of the classes and absolute error of the boxes, per sample.

    Args:
        boxes: `(batch, most, 5)` of (top, left, bottom, right, class), pixels; class -1
            for none.
        cells: `(batch, rows, columns, classes + 4)`, as `detector` gives them.

    Returns:
        Float32 `(batch,)`.

    Reference: Zhou et al. 2019, "Objects as points", equation 1.

    Example:
        >>> boxes = np.array([[[0.0, 0.0, 16.0, 16.0, 1.0]]], "float32")
        >>> detection_loss(boxes, np.zeros((1, 2, 2, 7), "float32")).shape
        TensorShape([1])
    """
    cells = tf.cast(cells, tf.float32)
    logits, sides = cells[..., :-BOX], cells[..., -BOX:]
    heat, wanted, near = _targets(boxes, tf.shape(cells)[1:3], logits.shape[-1])
    found = tf.sigmoid(logits)
    peak = heat > 0.999
    right = (1.0 - found) ** _ALPHA * tf.math.log_sigmoid(logits)
    wrong = (1.0 - heat) ** _BETA * found**_ALPHA * tf.math.log_sigmoid(-logits)
    focal = -tf.reduce_sum(tf.where(peak, right, wrong), [1, 2, 3])
    errors = tf.reduce_sum(tf.abs(sides - wanted), -1) * near
    objects = tf.maximum(tf.reduce_sum(tf.cast(peak, tf.float32), [1, 2, 3]), 1.0)
    weight = tf.maximum(tf.reduce_sum(near, [1, 2]), 1.0)
    return focal / objects + _BOX_WEIGHT * tf.reduce_sum(errors, [1, 2]) / weight


def _targets(boxes: Any, grid: Any, classes: int) -> tuple[Any, Any, Any]:
    """Heat `(b, rows, columns, classes)`, sides of boxes, and weights of these."""
    boxes = tf.cast(boxes, tf.float32)
    present = boxes[..., 4] >= 0.0
    corners = boxes[..., :4] / STRIDE
    top, left, bottom, right = (x[..., None, None] for x in tf.unstack(corners, axis=2))
    rows = tf.range(grid[0])[:, None]
    columns = tf.range(grid[1])[None, :]
    row, column = ((tf.cast(x, tf.float32) + 0.5) for x in (rows, columns))
    middle, centre = (top + bottom) / 2, (left + right) / 2
    # The cell that holds the middle is the peak itself, wherever in it that lies.
    down = row - (tf.floor(middle) + 0.5)
    across = column - (tf.floor(centre) + 0.5)
    tall, wide = (tf.maximum(_SPREAD * x, 0.2) for x in (bottom - top, right - left))
    heat = tf.exp(-0.5 * ((down / tall) ** 2 + (across / wide) ** 2))
    heat = tf.where(present[..., None, None], heat, 0.0)
    by_class = tf.one_hot(tf.cast(boxes[..., 4], tf.int32), classes)
    heats = tf.reduce_max(heat[..., None] * by_class[:, :, None, None, :], axis=1)
    gaps = (row - top, column - left, bottom - row, right - column)
    sides = tf.stack([tf.broadcast_to(x, tf.shape(heat)) for x in gaps], axis=-1)
    # Where objects meet, the cell learns the one whose middle is nearest.
    owner = tf.one_hot(tf.argmax(heat, axis=1), tf.shape(heat)[1], axis=1)
    wanted = tf.reduce_sum(sides * owner[..., None], axis=1)
    near = tf.reduce_max(heat, axis=1)
    return heats, wanted, tf.where(near >= _NEAR, near, 0.0)


def cell_distances(teacher: Any, student: Any) -> Any:
    """How far the raw cells of two detectors are apart, per sample.

    The KL divergence of the classes, each a yes or no, summed over the cells; and the
    absolute error of the boxes, as much as the teacher sees an object there.

    Args:
        teacher, student: `(batch, rows, columns, classes + 4)`.

    Returns:
        Float32 `(batch,)`, 0 where they are equal.
    """
    old, new = (tf.cast(x, tf.float32) for x in (teacher, student))
    sure = tf.sigmoid(old[..., :-BOX])
    yes = tf.math.log_sigmoid(old[..., :-BOX]) - tf.math.log_sigmoid(new[..., :-BOX])
    no = tf.math.log_sigmoid(-old[..., :-BOX]) - tf.math.log_sigmoid(-new[..., :-BOX])
    classes = tf.reduce_sum(sure * yes + (1.0 - sure) * no, [1, 2, 3])
    seen = tf.reduce_max(sure, -1)
    gaps = tf.reduce_sum(tf.abs(old[..., -BOX:] - new[..., -BOX:]), -1)
    return classes + _BOX_WEIGHT * tf.reduce_sum(seen * gaps, [1, 2])


def detection_divergence(reference: Any, found: Any) -> Any:
    """The mean of what the raw cells of two detectors differ by; see `Task`.

    Args:
        reference: cells of the original `(batch, rows, columns, classes + 4)`.
        found: cells of the changed detector.

    Returns:
        A scalar tensor, 0 where they are equal.

    Example:
        >>> cells = np.zeros((1, 2, 2, 7), "float32")
        >>> float(detection_divergence(cells, cells))
        0.0
    """
    return tf.reduce_mean(cell_distances(reference, found))


def decode_boxes(cells: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes that a detector sees: cells that are peaks of a class.

    Args:
        cells: `(batch, rows, columns, classes + 4)`.

    Returns:
        Boxes `(batch, n, 4)` of (top, left, bottom, right) in pixels, scores
        `(batch, n)` from the highest down, and classes `(batch, n)`.

    Reference: Zhou et al. 2019, "Objects as points", section 3.

    Example:
        >>> cells = np.full((1, 2, 2, 7), 1.0, "float32")
        >>> boxes, scores, classes = decode_boxes(cells)
        >>> boxes[0, 0].tolist()
        [-4.0, -4.0, 12.0, 12.0]
    """
    cells = np.asarray(cells, np.float32)
    logits, sides = cells[..., :-BOX], cells[..., -BOX:]
    batch, rows, columns, classes = logits.shape
    padded = np.pad(logits, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    peaks = np.where(logits >= windows.max((-1, -2)), logits, -np.inf)
    flat = peaks.reshape(batch, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :MOST_BOXES]
    row, column, number = np.unravel_index(order, (rows, columns, classes))
    top, left, bottom, right = np.moveaxis(
        sides[np.arange(batch)[:, None], row, column], -1, 0
    )
    y, x = row + 0.5, column + 0.5
    boxes = STRIDE * np.stack([y - top, x - left, y + bottom, x + right], axis=-1)
    with np.errstate(over="ignore"):
        scores = 1.0 / (1.0 + np.exp(-np.take_along_axis(flat, order, axis=1)))
    return boxes, scores, number
