"""Composed pictures: targets are true of the pixels, and splits stay apart."""

import numpy as np
import pytest

from tfcompress.data import DatasetSpec, load_dataset
from tfcompress.data.composed import (
    BACKGROUND,
    LARGEST,
    SMALLEST,
    scene_boxes,
    scene_masks,
    turned_digits,
)
from tfcompress.data.spec import DatasetError


class Blocks:
    """Stands for garments: bright blocks, each split of a brightness of its own."""

    class_names = ("narrow", "wide")
    brightness = {"train": 0.9, "validation": 0.7, "test": 0.5}

    def arrays(self, split):
        images = np.zeros((2, 28, 28, 1), np.float32)
        images[0, 4:24, 10:18] = images[1, 8:20, 2:26] = self.brightness[split]
        return images, np.arange(2, dtype=np.int32)


@pytest.fixture(scope="module")
def scenes():
    spec = DatasetSpec("scene_boxes", train_limit=40)
    return scene_boxes(spec, Blocks(), 0), scene_masks(spec, Blocks(), 0)


def test_boxes_bound_what_the_masks_show(scenes):
    boxes, masks = scenes
    assert (boxes.task, masks.task) == ("detection", "segmentation")
    assert masks.class_names == (BACKGROUND, "narrow", "wide")
    images, found = boxes.arrays["train"]
    np.testing.assert_array_equal(images, masks.arrays["train"][0])
    single = 0
    for mask, rows in zip(masks.arrays["train"][1], found, strict=True):
        rows = rows[rows[:, 4] >= 0]
        inside = np.zeros_like(mask, bool)
        for top, left, bottom, right, _ in rows.astype(int):
            inside[top:bottom, left:right] = True
        assert not mask[~inside].any()
        if len(rows) == 1:
            single += 1
            (top, left, bottom, right, label) = rows[0].astype(int)
            places = np.nonzero(mask)
            assert [p.min() for p in places] == [top, left]
            assert [p.max() + 1 for p in places] == [bottom, right]
            assert set(np.unique(mask)) == {0, label + 1}
    assert single


def test_each_split_is_of_its_own_images(scenes):
    for split, brightness in Blocks.brightness.items():
        images, masks = scenes[1].arrays[split]
        pixels = images[..., 0][masks > 0] / 255
        assert pixels.max() == pytest.approx(brightness, abs=0.01)


def test_a_limit_takes_the_first_scenes(scenes):
    fewer = scene_boxes(DatasetSpec("scene_boxes", train_limit=10), Blocks(), 0)
    for one, other in zip(
        fewer.arrays["train"], scenes[0].arrays["train"], strict=True
    ):
        np.testing.assert_array_equal(one, other[:10])


class Bar:
    """Stands for digits: an upright bar, bright above."""

    def arrays(self, split):
        image = np.zeros((8, 8, 1), np.float32)
        image[1:7, 3:5] = np.linspace(1.0, 0.4, 6)[:, None, None]
        return np.repeat(image[None], 40, 0), np.zeros(40, np.int32)


def test_angle_and_scale_are_those_of_the_pixels():
    found = turned_digits(DatasetSpec("turned_digits"), Bar(), 0)
    assert found.task == "regression"
    images, targets = found.arrays["validation"]
    assert images.shape[1:] == (28, 28, 1) and set(targets) == {"angle", "scale"}
    y, x = np.mgrid[:28, :28]
    for image, angle, scale in zip(images[..., 0], *targets.values(), strict=True):
        weights = image / image.sum()
        dx, dy = (axis - (axis * weights).sum() for axis in (x, y))
        xx, yy, xy = (
            (a * b * weights).sum() for a, b in ((dx, dx), (dy, dy), (dx, dy))
        )
        # The long axis leans to the left where it is turned counterclockwise.
        lean = 0.5 * np.degrees(np.arctan2(2 * xy, yy - xx))
        assert lean == pytest.approx(45.0 * angle[0], abs=4.0)
        frame = np.sqrt(LARGEST * SMALLEST) * (LARGEST / SMALLEST) ** (scale[0] / 2)
        length = np.sqrt(12 * np.linalg.eigvalsh([[xx, xy], [xy, yy]])[-1])
        assert length == pytest.approx(6 / 8 * frame, rel=0.15)


def test_the_same_pictures_every_time_and_batches_by_name():
    options = {"name": "turned_digits", "train_limit": 20, "image_size": (16, 16)}
    one, other = load_dataset(options), load_dataset(options)
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != load_dataset(options, split_seed=1).fingerprint
    assert one.task == "regression" and one.target_names == ("angle", "scale")
    images, targets = next(iter(one.batches("train", 8, shuffle_seed=0)))
    assert images.shape == (8, 16, 16, 1) and images.numpy().min() >= 0.0
    assert {name: x.shape for name, x in targets.items()} == {
        "angle": (8, 1),
        "scale": (8, 1),
    }
    assert load_dataset("digits").target_names == ()


@pytest.mark.parametrize("size", [(44, 44), (48, 56), (8, 8)])
def test_sizes_that_cells_do_not_fill(size):
    with pytest.raises(DatasetError, match="multiple of 8"):
        scene_masks(DatasetSpec("scene_masks", image_size=size), Blocks(), 0)
