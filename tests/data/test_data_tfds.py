"""TFDS names: finding them, their splits and features, and what fails."""

import importlib.util

import numpy as np
import pytest

from tfcompress.data import DatasetError, load_dataset, sources, tfds_data

needs_writer = pytest.mark.skipif(
    importlib.util.find_spec("importlib_resources") is None,
    reason="tensorflow-datasets cannot write without importlib_resources",
)


def store(data_dir, name, counts, *, features=None, make=None):
    """Writes a dataset that has no registered code."""
    import tensorflow_datasets as tfds

    features = features or {
        "picture": tfds.features.Image(shape=(4, 4, 3)),
        "kind": tfds.features.ClassLabel(names=["a", "b"]),
    }

    rng = np.random.default_rng(0)

    def example(i):
        return {"picture": rng.integers(0, 256, (4, 4, 3), np.uint8), "kind": i % 2}

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="2.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [(i, (make or example)(i)) for i in range(count)]
            for split, count in counts.items()
        },
        data_dir=data_dir,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    return {"name": name, "data_dir": str(data_dir)}


@needs_writer
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": 50, "validation": 6, "test": 7}, (50, 6, 7)),
        ({"train": 50, "test": 7}, (45, 5, 7)),
        ({"train": 50, "validation": 6}, (49, 1, 6)),
        ({"train": 50}, (40, 5, 5)),
    ],
)
def test_splits(tmp_path, given, expected):
    dataset = load_dataset(store(tmp_path, "unregistered", given))
    sizes = dict(zip(("train", "validation", "test"), expected, strict=True))
    assert dataset.sizes == sizes
    assert dataset.class_names == ("a", "b")
    assert dataset.image_shape == (4, 4, 3)
    images = {
        split: {image.tobytes() for image in dataset.arrays(split)[0]}
        for split in sizes
    }
    assert {split: len(found) for split, found in images.items()} == sizes
    assert len(set.union(*images.values())) == sum(expected)


@needs_writer
def test_held_and_streamed(tmp_path, monkeypatch):
    spec = store(tmp_path, "unregistered", {"train": 60, "test": 10})
    held = load_dataset(spec)
    images, labels = held.arrays("train")
    limited = load_dataset({**spec, "train_limit": 20})
    np.testing.assert_array_equal(np.bincount(limited.arrays("train")[1]), [10, 10])

    monkeypatch.setattr(sources, "MEMORY_LIMIT_BYTES", 0)
    streamed = load_dataset(spec)
    assert streamed.fingerprint == held.fingerprint != limited.fingerprint
    got = list(streamed.batches("train", 54).as_numpy_iterator())[0]
    np.testing.assert_allclose(got[0], images, atol=1e-6)
    np.testing.assert_array_equal(got[1], labels)
    orders = [
        next(streamed.batches("train", 54, shuffle_seed=1).as_numpy_iterator())[0]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*orders)
    assert not np.array_equal(orders[0], got[0])
    few = load_dataset({**spec, "train_limit": 20}).batches(
        "train", 20, shuffle_seed=1, repeat=True
    )
    seen = {x.tobytes() for b, _ in few.take(3).as_numpy_iterator() for x in b}
    assert len(seen) == 20


@needs_writer
def test_image_size(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=3),
    }

    def example(i):
        return {"image": np.full((4 + i % 3, 5, 3), i, np.uint8), "label": i % 3}

    spec = store(
        tmp_path, "ragged", {"train": 30, "test": 5}, features=features, make=example
    )
    with pytest.raises(DatasetError, match="differ in size; give image_size"):
        load_dataset(spec)
    dataset = load_dataset({**spec, "image_size": [6, 6], "pixel_range": (0, 255)})
    images, labels = dataset.arrays("test")
    assert images.shape == (5, 6, 6, 3)
    values = images[:, 0, 0, 0]
    np.testing.assert_array_equal(np.round(values).astype(int) % 3, labels)


@needs_writer
def test_unusable_features(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(), "score": tfds.features.Scalar(np.int64)}
    spec = store(
        tmp_path,
        "no_label",
        {"train": 2},
        features=features,
        make=lambda i: {"image": np.zeros((2, 2, 3), np.uint8), "score": i},
    )
    with pytest.raises(DatasetError, match="no class label.*image, score"):
        load_dataset(spec)
    with pytest.raises(DatasetError, match="no train split"):
        load_dataset(store(tmp_path, "only_test", {"test": 3}))
    with pytest.raises(DatasetError, match="leaves no images for validation"):
        load_dataset(store(tmp_path, "tiny", {"train": 1, "test": 3}))


def test_unknown_names(tmp_path):
    with pytest.raises(DatasetError, match="did you mean 'cifar10'") as caught:
        load_dataset({"name": "cifar1O", "data_dir": str(tmp_path)})
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="no dataset 'xyzzyxyzzy'; use a TFDS"):
        load_dataset({"name": "xyzzyxyzzy", "data_dir": str(tmp_path)})


@needs_writer
def test_unreachable_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_data, "_unreachable_host", lambda builder: "some.host")
    with pytest.raises(DatasetError, match="some.host.*data_dir.*import-idx"):
        load_dataset({"name": "cifar10", "data_dir": str(tmp_path)})
    import tensorflow_datasets as tfds

    def fail(self, **kwargs):
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr(tfds_data, "_unreachable_host", lambda builder: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DatasetError, match=r"\(no route\); connect") as caught:
        load_dataset({"name": "cifar10", "data_dir": str(tmp_path)})
    assert "\n" not in str(caught.value)
