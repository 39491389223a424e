"""Splits, batches and image folders."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tfcompress.data import DatasetError, DatasetSpec, load_dataset, sources
from tfcompress.data.splits import SPLITS, balanced_subset, hash_split, holdout_split


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def write_folder(root, dataset, *, count=200, splits=False):
    images, labels = dataset.arrays("train")
    pixels = np.round(images[:count] * 255).astype(np.uint8)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=False)):
        split = ("train", "validation", "test")[max(0, i % 10 - 7)] if splits else ""
        folder = root / split / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{i:04}.png")
    return root


def collect(batches):
    pairs = list(batches.as_numpy_iterator())
    images, labels = zip(*pairs, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def as_bytes(images):
    return sorted(image.tobytes() for image in images)


def test_import_needs_no_tensorflow():
    code = "import sys, tfcompress.data.spec as s; s.DatasetSpec('digits'); "
    code += "import tfcompress.data; sys.exit('tensorflow_datasets' in sys.modules"
    code += " or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits(digits):
    from sklearn.datasets import load_digits

    assert digits.sizes == {"train": 1149, "validation": 289, "test": 359}
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert not digits.mirror_symmetric
    bunch = load_digits()
    everything = [digits.arrays(split) for split in SPLITS]
    images = np.concatenate([images for images, _ in everything])
    expected = np.round(bunch.images * 255 / 16).astype(np.uint8)
    # All images, each once: the splits are disjoint and complete.
    assert as_bytes(np.round(images[..., 0] * 255).astype(np.uint8)) == as_bytes(
        expected
    )
    share = np.bincount(bunch.target) / len(bunch.target)
    for _, labels in everything:
        np.testing.assert_allclose(np.bincount(labels) / len(labels), share, atol=4e-3)


def test_pixel_range():
    images, labels = load_dataset({"name": "digits", "pixel_range": [-1, 1]}).arrays(
        "train"
    )
    assert images.dtype == np.float32 and labels.dtype == np.int32
    assert (images.min(), images.max()) == (-1.0, 1.0)
    batches = load_dataset({"name": "digits", "pixel_range": [-1, 1]}).batches(
        "train", 100
    )
    np.testing.assert_allclose(collect(batches)[0], images, atol=1e-6)


def test_batches_are_a_function_of_the_seed(digits):
    import tensorflow as tf

    tf.random.set_seed(1)
    one = digits.batches("train", 128, shuffle_seed=3)
    first, second = collect(one), collect(one)
    tf.random.set_seed(2)
    again = digits.batches("train", 128, shuffle_seed=3)
    other = digits.batches("train", 128, shuffle_seed=4)

    for a, b in ((first, collect(again)), (second, collect(again))):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], collect(other)[1])
    assert as_bytes(first[0]) == as_bytes(second[0])
    assert len(one) == 9


def test_repeated_batches_go_through_the_same_orders(digits):
    import tensorflow as tf

    single = digits.batches("validation", 289, shuffle_seed=0)
    passes = np.concatenate([collect(single)[1], collect(single)[1]])
    endless = digits.batches("validation", 17, shuffle_seed=0, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    np.testing.assert_array_equal(collect(endless.take(34))[1], passes)


@pytest.mark.parametrize("drop", [False, True])
def test_remainder(digits, drop):
    batches = digits.batches("train", 100, drop_remainder=drop)
    sizes = [len(labels) for _, labels in batches.as_numpy_iterator()]
    assert sizes == [100] * 11 + [49] * (not drop)
    assert len(batches) == len(sizes)


def test_fingerprint(digits):
    assert load_dataset("digits").fingerprint == digits.fingerprint
    same = load_dataset(DatasetSpec("digits", pixel_range=(-1, 1)))
    assert same.fingerprint == digits.fingerprint
    for options in ({"train_limit": 100}, {"image_size": (16, 16)}):
        other = load_dataset({"name": "digits", **options})
        assert other.fingerprint != digits.fingerprint
    assert load_dataset("digits", split_seed=1).fingerprint != digits.fingerprint


def test_train_limit_is_balanced_and_fixed():
    limited = load_dataset({"name": "digits", "train_limit": 105})
    labels = limited.arrays("train")[1]
    assert limited.sizes == {"train": 105, "validation": 289, "test": 359}
    assert set(np.bincount(labels)) == {10, 11}
    assert len(balanced_subset(np.array([0] * 3 + [1] * 50), 20)) == 20
    again = load_dataset({"name": "digits", "train_limit": 105})
    np.testing.assert_array_equal(again.arrays("train")[0], limited.arrays("train")[0])


def test_calibration_takes_training_images(digits):
    batches = digits.calibration(300, seed=1, batch_size=7)
    images = np.concatenate(list(batches.as_numpy_iterator()))
    assert images.shape == (300, 8, 8, 1)
    np.testing.assert_array_equal(
        images, np.concatenate(list(batches.as_numpy_iterator()))
    )
    train = set(as_bytes(digits.arrays("train")[0]))
    np.testing.assert_allclose(images.max(), 1)
    assert len(train & set(as_bytes(images))) > 290
    assert sum(1 for _ in digits.calibration(5)) == 5


def test_split_functions():
    kept, held_out = holdout_split(50, fraction=0.1, seed=0)
    assert sorted([*kept, *held_out]) == list(range(50)) and len(held_out) == 5
    shares = [hash_split(f"class/{i}.png") for i in range(2000)]
    assert shares.count("train") == pytest.approx(1600, abs=80)
    assert shares.count("test") == pytest.approx(200, abs=50)


def test_folder_split_by_hash(tmp_path, digits):
    root = write_folder(tmp_path / "pictures", digits)
    dataset = load_dataset({"folder": str(root)})
    assert dataset.name == "pictures"
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names[3] == "class3"
    assert sum(dataset.sizes.values()) == 200
    everything = np.concatenate([dataset.arrays(split)[0] for split in SPLITS])
    assert as_bytes(np.round(everything * 255).astype(np.uint8)) == as_bytes(
        np.round(digits.arrays("train")[0][:200] * 255).astype(np.uint8)
    )
    before = {s: as_bytes(dataset.arrays(s)[0]) for s in SPLITS}
    Image.new("L", (8, 8)).save(root / "class0" / "new.png")
    after = load_dataset({"folder": str(root)})
    assert after.fingerprint != dataset.fingerprint
    for split in SPLITS:
        assert set(before[split]) <= set(as_bytes(after.arrays(split)[0]))


def test_folder_with_splits(tmp_path, digits):
    root = write_folder(tmp_path / "sorted", digits, splits=True)
    assert load_dataset({"folder": str(root)}).sizes == {
        "train": 160,
        "validation": 20,
        "test": 20,
    }
    (root / "test").rename(root / "unused")
    without = load_dataset({"folder": str(root)})
    assert without.sizes == {"train": 144, "validation": 16, "test": 20}
    (root / "validation").rename(root / "unused2")
    with pytest.raises(DatasetError, match="neither validation"):
        load_dataset({"folder": str(root)})
    (root / "val").mkdir()
    (root / "val" / "class0").mkdir()
    (root / "val" / "extra").mkdir()
    with pytest.raises(DatasetError, match="class folder 'extra'"):
        load_dataset({"folder": str(root)})


def test_folder_too_large_for_memory(tmp_path, digits, monkeypatch):
    root = write_folder(tmp_path / "large", digits)
    options = {"folder": str(root), "image_size": [10, 12], "train_limit": 50}
    held = load_dataset(options)
    monkeypatch.setattr(sources, "MEMORY_LIMIT_BYTES", 0)
    streamed = load_dataset(options)
    assert isinstance(streamed._sources["train"], sources.FileSource)
    assert streamed.fingerprint == held.fingerprint
    assert streamed.image_shape == (10, 12, 1)
    for seed in (None, 5):
        one, two = (
            collect(dataset.batches("train", 16, shuffle_seed=seed))
            for dataset in (held, streamed)
        )
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_faulty_folders(tmp_path, digits):
    def fails(message, **options):
        with pytest.raises(DatasetError, match=message) as caught:
            load_dataset({"folder": str(root), **options})
        assert "\n" not in str(caught.value)

    root = tmp_path / "nowhere"
    fails("does not exist")
    root = tmp_path / "empty"
    root.mkdir()
    fails("has 0 class folders")
    root = write_folder(tmp_path / "faulty", digits)
    whole = root / "class1" / "whole.png"
    Image.new("L", (9, 8)).save(whole)
    fails("differ in size.*whole.png' 8x9.*give image_size")
    assert load_dataset({"folder": str(root), "image_size": (8, 8)})
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(whole)
    fails("whole.png' has more than 8 bits")
    whole.write_bytes(b"no image")
    fails("whole.png' cannot be read")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    assert load_dataset({"folder": str(root)}).image_shape == (8, 8, 3)
    whole.write_bytes(whole.read_bytes()[:-60])
    fails("whole.png' cannot be decoded")
    whole.unlink()
    (root / "class_without").mkdir()
    (root / "class_without" / "readme.txt").write_text("none")
    fails("class_without' has no images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a name"),
        ({"name": "digits", "trainlimit": 5}, "did you mean 'train_limit'"),
        ({"folder": "a", "idx": "b"}, "one of folder, idx and examples"),
        ({"name": "digits", "image_size": 8}, "two numbers"),
        ({"name": "digits", "image_size": (8, 0)}, "positive whole"),
        ({"name": "digits", "pixel_range": (1, 0)}, "low < high"),
        ({"name": "digits", "pixel_range": ("a", "b")}, "two numbers"),
        ({"name": "digits", "train_limit": 0}, "positive whole"),
    ],
)
def test_faulty_options(options, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(options)


def test_faulty_requests(digits):
    with pytest.raises(DatasetError, match="no split 'valid'"):
        digits.batches("valid", 8)
    with pytest.raises(DatasetError, match="batch_size"):
        digits.batches("train", 0)
    with pytest.raises(DatasetError, match="calibration"):
        digits.calibration(0)
    with pytest.raises(DatasetError, match="a name, a mapping"):
        load_dataset(3)
