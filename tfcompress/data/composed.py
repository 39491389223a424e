"""Images composed of real ones, with exact targets: scenes of garments, turned digits.

Real pixels whose boxes, silhouettes and angles are known, for tasks other than
classification, with nothing to download beyond Fashion-MNIST. Each split is composed of
the images of its own split alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

from tfcompress.data.spec import DatasetError, DatasetSpec
from tfcompress.data.splits import SPLITS

# Images of each split.
SCENES = {"train": 5000, "validation": 500, "test": 1000}
COPIES = {"train": 8, "validation": 4, "test": 4}

# Garments of a scene at most, and so rows of boxes.
MOST = 3
# What a mask says where there is no garment.
BACKGROUND = "background"
# Half the range of angles, degrees; sides of a digit's frame, pixels of 28.
TURN = 45.0
SMALLEST, LARGEST = 10.0, 26.0

_SIDE = 48
_STEP = 8  # Detectors look at cells of eight pixels.
_FRAME = 28
_LARGEST_OVERLAP = 0.15
_TRIES = 30


class Composed(NamedTuple):
    """What the recipes of the composed data sets give.

    Attributes:
        task: what the targets are for.
        arrays: `(images, targets)` by split; images uint8 `(n, height, width, 1)`.
        class_names: names of what the targets number; empty where they are numbers.
    """

    task: str
    arrays: dict[str, tuple[np.ndarray, Any]]
    class_names: tuple[str, ...]


def scene_boxes(spec: DatasetSpec, garments: Any, seed: int) -> Composed:
    """Scenes with boxes: float32 `(n, MOST, 5)` of (top, left, bottom, right, class).

    Pixels; rows of class -1 hold no garment.
    """
    return _scenes(spec, garments, seed, boxes=True)


def scene_masks(spec: DatasetSpec, garments: Any, seed: int) -> Composed:
    """The same scenes with masks: int32 `(n, height, width)`, 0 for the background."""
    return _scenes(spec, garments, seed, boxes=False)


def turned_digits(spec: DatasetSpec, digits: Any, seed: int) -> Composed:
    """Digits turned and scaled, with both: float32 `(n, 1)` each, from -1 to 1.

    "angle" counts in `TURN` degrees, counterclockwise; "scale" is -1 for a frame of
    `SMALLEST` pixels and 1 for one of `LARGEST`, evenly in its logarithm.
    """
    side = _side(spec, _FRAME)
    arrays = {}
    for number, split in enumerate(SPLITS):
        random = np.random.default_rng([seed, number])
        images = np.repeat(digits.arrays(split)[0][..., 0], COPIES[split], axis=0)
        images = images[random.permutation(len(images))]
        if split == "train" and spec.train_limit is not None:
            images = images[: spec.train_limit]
        angle, scale = random.uniform(-1.0, 1.0, (2, len(images)))
        shift = random.uniform(-1.0, 1.0, (len(images), 2))
        drawn = [
            _turned(*one, side) for one in zip(images, angle, scale, shift, strict=True)
        ]
        targets = {"angle": angle, "scale": scale}
        arrays[split] = (
            np.stack(drawn),
            {name: x.astype(np.float32)[:, None] for name, x in targets.items()},
        )
    return Composed("regression", arrays, ())


def _turned(
    image: np.ndarray, angle: float, scale: float, shift: np.ndarray, side: int
) -> np.ndarray:
    middle = 0.5 * np.log(LARGEST * SMALLEST)
    frame = np.exp(middle + 0.5 * scale * np.log(LARGEST / SMALLEST)) * side / _FRAME
    turn = np.deg2rad(TURN * angle)
    # From a place in the result to one in the digit.
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, sin], [-sin, cos]]) * len(image) / frame
    centre = (side - 1) / 2 + shift
    offset = (len(image) - 1) / 2 - matrix @ centre
    drawn = scipy.ndimage.affine_transform(
        255.0 * image, matrix, offset, (side, side), order=1
    )
    return np.round(drawn).astype(np.uint8)[..., None]


def _scenes(spec: DatasetSpec, garments: Any, seed: int, *, boxes: bool) -> Composed:
    side = _side(spec, _SIDE)
    arrays = {}
    for number, split in enumerate(SPLITS):
        count = SCENES[split]
        if split == "train" and spec.train_limit is not None:
            count = min(spec.train_limit, count)
        random = np.random.default_rng([seed, number])
        images, labels = garments.arrays(split)
        made = [_scene(images, labels, side, random) for _ in range(count)]
        scenes, masks, found = (np.stack(parts) for parts in zip(*made, strict=True))
        arrays[split] = (scenes, found if boxes else masks)
    names = garments.class_names
    if boxes:
        return Composed("detection", arrays, names)
    return Composed("segmentation", arrays, (BACKGROUND, *names))


def _scene(
    images: np.ndarray, labels: np.ndarray, side: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene, its mask and its boxes."""
    # A ground of smooth shades with some grain: nothing that ends at zero.
    shades = scipy.ndimage.zoom(random.uniform(0.0, 0.35, (4, 4)), side / 4, order=1)
    scene = shades + random.normal(0.0, 0.03, (side, side))
    mask = np.zeros((side, side), np.int32)
    boxes = np.full((MOST, 5), -1.0, np.float32)
    placed = 0
    for index in random.integers(len(images), size=random.integers(1, MOST + 1)):
        size = int(round(side * random.uniform(0.3, 0.6)))
        image = scipy.ndimage.zoom(images[index, ..., 0], size / _FRAME, order=1)
        shape = scipy.ndimage.binary_fill_holes(image > 0.05)
        box = _free_place(shape, boxes[:placed], side, random)
        if box is None:
            continue
        (top, left), (rows, columns) = box[:2], np.nonzero(shape)
        rows, columns = rows + top - rows.min(), columns + left - columns.min()
        scene[rows, columns] = image[shape]
        mask[rows, columns] = 1 + labels[index]
        boxes[placed] = (*box, labels[index])
        placed += 1
    pixels = np.round(255 * np.clip(scene, 0.0, 1.0)).astype(np.uint8)
    return pixels[..., None], mask, boxes


def _free_place(
    shape: np.ndarray, taken: np.ndarray, side: int, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A box for a silhouette that hardly covers others; None if none is found."""
    if not shape.any():
        return None
    height, width = (int(np.ptp(places)) + 1 for places in np.nonzero(shape))
    for _ in range(_TRIES):
        top = int(random.integers(side - height + 1))
        left = int(random.integers(side - width + 1))
        box = (top, left, top + height, left + width)
        if all(_overlap(box, other) <= _LARGEST_OVERLAP for other in taken):
            return box
    return None


def _overlap(one: Any, other: Any) -> float:
    """What two boxes share, as a part of the smaller one."""
    high, wide = (
        max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)
    )
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return high * wide / min(areas)


def _side(spec: DatasetSpec, default: int) -> int:
    if spec.image_size is None:
        return default
    height, width = spec.image_size
    if height != width or height % (_STEP if default == _SIDE else 1) or height < 16:
        raise DatasetError(
            f"'{spec.name}' is composed of square images of 16 pixels or more, scenes "
            f"of a multiple of {_STEP}. Received: image_size={spec.image_size}"
        )
    return height


# Name -> how it is composed, and of what.
COMPOSED: Mapping[str, tuple[Any, str]] = {
    "scene_boxes": (scene_boxes, "fashion_mnist"),
    "scene_masks": (scene_masks, "fashion_mnist"),
    "turned_digits": (turned_digits, "digits"),
}
