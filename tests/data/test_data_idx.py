"""IDX files: reading, damaged files, and the way into TFDS."""

import gzip
import importlib.util
import os
import struct
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import strategies as st

from tfcompress.data import DatasetError, import_idx, load_dataset, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
FASHION = Path("/usr/share/datasets/fashion-mnist")

needs_writer = pytest.mark.skipif(
    importlib.util.find_spec("importlib_resources") is None,
    reason="tensorflow-datasets cannot write without importlib_resources",
)


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim)
    header += struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx_set(folder: Path, *, images, labels, test_count: int, gz=False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = images.astype(np.uint8), labels.astype(np.uint8)
    for prefix, part in {
        "train": slice(test_count, None),
        "t10k": slice(0, test_count),
    }.items():
        for kind, array in {"images-idx3": images, "labels-idx1": labels}.items():
            content = idx_bytes(array[part])
            name = f"{prefix}-{kind}-ubyte"
            if gz:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.round(bunch.images * 255 / 16).astype(np.uint8)[:300], bunch.target[:300]


@pytest.fixture
def idx_folder(tmp_path, digits):
    images, labels = digits
    return write_idx_set(
        tmp_path / "my-digits", images=images, labels=labels, test_count=100
    )


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data(), gz=st.booleans())
def test_read_idx_returns_what_was_written(tmp_path, data, gz):
    dtype = np.dtype(data.draw(st.sampled_from(sorted(CODES))))
    shape = data.draw(
        hypothesis.extra.numpy.array_shapes(min_dims=1, max_dims=4, max_side=5)
    )
    array = data.draw(hypothesis.extra.numpy.arrays(dtype, shape))
    path = tmp_path / "array-idx"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if gz else content)

    read = read_idx(path)

    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DatasetError):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG and so on", "no IDX file"),
        (b"\0\0\x08\x00", "0 dimensions"),
        (b"\0\0\x08\x02\0\0\0\x01", "2 dimensions in 8 bytes"),
        (b"\0\0\x08\x01\0\0\0\x03ab", "truncated"),
        (b"\0\0\x08\x01\0\0\0\x03abcd", "too long"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03abc" * 50, mtime=0)[:-12], "truncated"),
        (b"\x1f\x8bno gzip at all", "cannot be read"),
    ],
    # Two workers must give the tests the same names.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_idx_names_the_fault(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_idx(path)
    assert "some-file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gz", [False, True])
def test_idx_round_trip(tmp_path, digits, gz):
    images, labels = digits
    folder = write_idx_set(
        tmp_path / "x", images=images, labels=labels, test_count=100, gz=gz
    )
    dataset = load_dataset({"idx": str(folder), "pixel_range": (0, 255)})

    assert dataset.name == "x"
    assert dataset.sizes == {"train": 180, "validation": 20, "test": 100}
    test_images, test_labels = dataset.arrays("test")
    np.testing.assert_allclose(test_images[..., 0], images[:100], atol=1e-4)
    np.testing.assert_array_equal(test_labels, labels[:100])
    rest = np.concatenate(
        [dataset.arrays(split)[0] for split in ("train", "validation")]
    )
    written = sorted(image.tobytes() for image in images[100:])
    got = np.round(rest[..., 0]).astype(np.uint8)
    assert sorted(image.tobytes() for image in got) == written


def test_environment_variable_names_the_idx_folder(idx_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TFCOMPRESS_DATA", str(tmp_path))
    dataset = load_dataset({"name": "my_digits", "data_dir": str(tmp_path / "no")})
    assert dataset.name == "my_digits"
    assert dataset.num_classes == 10


def test_split_seed_chooses_validation_only(idx_folder):
    one, two = (load_dataset({"idx": str(idx_folder)}, split_seed=i) for i in (0, 1))
    assert one.fingerprint != two.fingerprint
    np.testing.assert_array_equal(one.arrays("test")[0], two.arrays("test")[0])
    assert not np.array_equal(one.arrays("validation")[0], two.arrays("validation")[0])


def test_faulty_idx_folders(idx_folder, tmp_path):
    def fails(message):
        with pytest.raises(DatasetError, match=message):
            load_dataset({"idx": str(idx_folder)})

    labels = idx_folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(99, np.uint8)))
    fails("100 images but .* 99 labels")
    labels.write_bytes(idx_bytes(np.full(100, 10, np.uint8)))
    fails("test labels .* up to 10, but .* has 10 classes")
    labels.write_bytes(idx_bytes(np.zeros(100, np.float32)))
    fails("no whole-number labels")
    labels.write_bytes(idx_bytes(np.full(100, -1, np.int8)))
    fails("label -1")
    labels.unlink()
    fails("has no t10k-labels-idx1-ubyte")
    with pytest.raises(DatasetError, match="does not exist"):
        load_dataset({"idx": str(tmp_path / "nowhere")})


@needs_writer
@pytest.mark.parametrize(
    ("name", "version"), [("my_digits", "1.0.0"), ("my_other", "1.0.0")]
)
def test_import_idx_then_tfds_load(idx_folder, tmp_path, digits, name, version):
    import tensorflow_datasets as tfds

    images, labels = digits
    data_dir = tmp_path / "tfds"
    path = import_idx(idx_folder, name=name, data_dir=data_dir)

    assert path == data_dir / name / version
    assert os.listdir(data_dir) == [name]
    train, test = tfds.load(
        name, data_dir=data_dir, split=["train", "test"], as_supervised=True
    )
    got = list(tfds.as_numpy(train))
    np.testing.assert_array_equal([i[..., 0] for i, _ in got], images[100:])
    np.testing.assert_array_equal([label for _, label in got], labels[100:])
    assert len(test) == 100
    info = tfds.builder(name, data_dir=data_dir).info
    assert info.features["label"].names == [str(i) for i in range(10)]

    dataset = load_dataset({"name": name, "data_dir": str(data_dir)})
    assert dataset.sizes == {"train": 180, "validation": 20, "test": 100}
    assert dataset.class_names == tuple(str(i) for i in range(10))
    np.testing.assert_allclose(
        dataset.arrays("test")[0][..., 0], images[:100] / 255, atol=1e-6
    )


@needs_writer
def test_import_idx_overwrites_only_when_told(idx_folder, tmp_path, monkeypatch):
    options = {"name": "my_digits", "data_dir": tmp_path / "tfds"}
    path = import_idx(idx_folder, **options)
    before = sorted(p.name for p in path.iterdir())
    with pytest.raises(DatasetError, match="exists already"):
        import_idx(idx_folder, **options)
    import_idx(idx_folder, overwrite=True, **options)
    assert sorted(p.name for p in path.iterdir()) == before

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("tfcompress.data.importing._write", fail)
    with pytest.raises(DatasetError, match="disk full"):
        import_idx(idx_folder, overwrite=True, **options)
    assert sorted(p.name for p in path.iterdir()) == before
    assert os.listdir(tmp_path / "tfds") == ["my_digits"]


@needs_writer
def test_import_idx_under_a_registered_name(tmp_path):
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 28, 28), np.uint8)
    folder = write_idx_set(
        tmp_path / "idx", images=images, labels=np.arange(60) % 10, test_count=20
    )
    path = import_idx(folder, name="fashion_mnist", data_dir=tmp_path / "tfds")
    loaded, info = tfds.load(
        "fashion_mnist",
        data_dir=tmp_path / "tfds",
        split="train",
        with_info=True,
        download=False,
    )
    assert path.name == str(info.version)
    assert info.features["label"].names[9] == "Ankle boot"
    got = np.stack([example["image"][..., 0] for example in tfds.as_numpy(loaded)])
    np.testing.assert_array_equal(got, images[20:])
    dataset = load_dataset({"name": "fashion_mnist", "data_dir": tmp_path / "tfds"})
    assert dataset.sizes == {"train": 36, "validation": 4, "test": 20}
    with pytest.raises(DatasetError, match="other features.*another name"):
        import_idx(folder, name="cifar10", data_dir=tmp_path / "tfds")


@pytest.mark.parametrize("name", ["", "Fashion", "fashion-mnist", "../up", "1st"])
def test_import_idx_refuses_bad_names(idx_folder, tmp_path, name):
    with pytest.raises(DatasetError, match="lower-case"):
        import_idx(idx_folder, name=name, data_dir=tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_import_idx_says_what_tfds_lacks(idx_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install importlib_resources"):
        import_idx(idx_folder, name="my_digits", data_dir=tmp_path / "tfds")


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs dataset-fashion-mnist")
def test_fashion_mnist_from_debian(tmp_path):
    dataset = load_dataset(
        {"name": "fashion_mnist", "data_dir": str(tmp_path), "train_limit": 1000}
    )
    assert dataset.sizes == {"train": 1000, "validation": 6000, "test": 10000}
    assert dataset.class_names[0] == "T-shirt/top"
    assert dataset.mirror_symmetric
    labels = dataset.arrays("train")[1]
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 100))
