"""tf.Examples: what was written is read, whatever order the files have it in."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfcompress.data import DatasetError, load_dataset, write_examples

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory):
    return write_examples(digits, tmp_path_factory.mktemp("x") / "examples", shards=3)


def example(**features):
    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        value = np.ravel(value)
        if value.dtype.kind == "f":
            return tf.train.Feature(float_list=tf.train.FloatList(value=value))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    held = {key: feature(value) for key, value in features.items()}
    return tf.train.Example(
        features=tf.train.Features(feature=held)
    ).SerializeToString()


def write(folder, records, *, gzip=False):
    folder.mkdir(parents=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP" if gzip else "")
    name = "data.gz" if gzip else "data.tfrecord"
    with tf.io.TFRecordWriter(str(folder / name), options) as writer:
        for record in records:
            writer.write(record)


def some(count, *, shape=(4, 4, 1), classes=3, **more):
    random = np.random.default_rng(0)
    return [
        example(
            image=random.uniform(size=shape).astype("f"), label=index % classes, **more
        )
        for index in range(count)
    ]


def test_floats_are_read_as_they_were(digits, written):
    assert len(list((written / "train").iterdir())) == 3
    found = load_dataset({"name": "digits", "examples": str(written)})
    assert found.sizes == digits.sizes and found.image_shape == (8, 8, 1)
    assert found.class_names == digits.class_names
    assert not found.mirror_symmetric
    for split in SPLITS:
        for one, other in zip(found.arrays(split), digits.arrays(split), strict=True):
            np.testing.assert_array_equal(one, other)
    ours, theirs = (
        next(iter(d.batches("train", 32, shuffle_seed=3))) for d in (found, digits)
    )
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("numbered", [True, False])
def test_the_order_of_the_files_does_not_matter(numbered, written, tmp_path):
    def records(split):
        files = sorted(str(path) for path in (written / split).iterdir())
        kept = []
        for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
            parsed = tf.train.Example.FromString(record)
            if not numbered:
                del parsed.features.feature["id"]
            kept.append(parsed.SerializeToString())
        return kept

    found = []
    for name, seed in (("one", 1), ("two", 2)):
        root = tmp_path / name
        for split, called in (("train", "train"), ("test", "eval")):
            shuffled = records(split)
            np.random.default_rng(seed).shuffle(shuffled)
            write(root / f"Split-{called}", shuffled, gzip=name == "two")
        found.append(load_dataset({"name": "digits", "examples": str(root)}))
    one, two = found
    assert one.fingerprint == two.fingerprint
    assert one.sizes == {"train": 1034, "validation": 115, "test": 359}
    for split in SPLITS:
        np.testing.assert_array_equal(one.arrays(split)[0], two.arrays(split)[0])
        np.testing.assert_array_equal(one.arrays(split)[1], two.arrays(split)[1])


def test_encoded_images(digits, tmp_path):
    folder = write_examples(digits, tmp_path / "png", encoded=True)
    found = load_dataset({"name": "digits", "examples": str(folder)})
    for split in SPLITS:
        np.testing.assert_array_equal(found.arrays(split)[0], digits.arrays(split)[0])
    larger = load_dataset(
        {"name": "digits", "examples": str(folder), "image_size": (16, 12)}
    )
    assert larger.image_shape == (16, 12, 1)
    assert larger.batches("test", 5).element_spec[0].shape[1:] == (16, 12, 1)


def test_features_of_other_names_and_shapes(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 2, 6, 3))
    records = [
        example(pixels=image, kind=index % 2, weight=0.5)
        for index, image in enumerate(images)
    ]
    for split in SPLITS:
        write(tmp_path / split, records)
    described = {"image": "pixels", "label": "kind", "shape": [2, 6, 3]}
    found = load_dataset(
        {"examples": str(tmp_path), "features": described, "class_names": ["a", "b"]}
    )
    assert found.image_shape == (2, 6, 3) and found.class_names == ("a", "b")
    np.testing.assert_allclose(
        np.sort(found.arrays("train")[0].ravel()),
        np.sort(images.ravel() / np.float32(255)),
        rtol=1e-6,
    )
    # Found by themselves, where only the shape is in doubt: 36 numbers are 6 x 6.
    assert load_dataset({"examples": str(tmp_path)}).image_shape == (6, 6, 1)


def test_an_image_of_one_column_for_each_pixel(digits, tmp_path):
    """What CsvExampleGen makes of a table: numbers of either kind, in any order."""
    images, labels = digits.arrays("test")
    for split in SPLITS:
        records = [
            example(
                label=label,
                **{
                    f"pixel_{i}": int(255 * one) if i == 3 else one
                    for i, one in enumerate(image.ravel())
                },
            )
            for image, label in zip(images[:8], labels[:8], strict=True)
        ]
        write(tmp_path / split, records)
    spec = {
        "examples": str(tmp_path),
        "features": {"image": "pixel_*", "label": "label"},
        "class_names": list("0123456789"),
    }
    found = load_dataset(spec)
    assert found.image_shape == (8, 8, 1)
    wanted = images[:8].reshape(8, -1).copy()
    wanted[:, 3] = (255 * wanted[:, 3]).astype(int)
    have = found.arrays("test")[0].reshape(8, -1)
    assert {row.tobytes() for row in have} == {row.tobytes() for row in wanted}
    with pytest.raises(DatasetError, match="0 features like 'px_\\*'"):
        load_dataset(spec | {"features": {"image": "px_*"}})
    with pytest.raises(DatasetError, match=r"64 features.*are not .* = \(8, 9, 1\)"):
        load_dataset(spec | {"features": {"image": "pixel_*", "shape": [8, 9, 1]}})


def test_files_anywhere_that_tensorflow_reads(digits, written):
    """Also in a bucket: `ram://` stands for `gs://` here."""
    for split in SPLITS:
        for path in (written / split).iterdir():
            tf.io.gfile.makedirs(f"ram://bucket/examples/{split}")
            target = f"ram://bucket/examples/{split}/{path.name}"
            tf.io.gfile.copy(str(path), target, overwrite=True)
    found = load_dataset({"name": "digits", "examples": "ram://bucket/examples"})
    for split in SPLITS:
        np.testing.assert_array_equal(found.arrays(split)[0], digits.arrays(split)[0])


def test_encoded_images_of_different_sizes(tmp_path):
    random = np.random.default_rng(0)
    records = [
        example(
            image=tf.io.encode_png(
                random.integers(0, 256, (4 + index, 9 - index, 3), np.uint8)
            ).numpy(),
            label=index % 2,
        )
        for index in range(6)
    ]
    for split in SPLITS:
        write(tmp_path / split, records)
    with pytest.raises(DatasetError, match="differ in size in .*; give image_"):
        load_dataset({"examples": str(tmp_path)})
    found = load_dataset({"examples": str(tmp_path), "image_size": (6, 6)})
    assert found.arrays("train")[0].shape == (6, 6, 6, 3)


def test_what_is_larger_than_memory_streams(digits, written, tmp_path, monkeypatch):
    from tfcompress.data import examples, sources

    shutil.copytree(written / "train", tmp_path / "train")
    shutil.copytree(written / "test", tmp_path / "eval")
    monkeypatch.setattr(examples, "MEMORY_LIMIT_BYTES", 1000)
    monkeypatch.setattr(sources, "MEMORY_LIMIT_BYTES", 1000)
    spec = {"examples": str(tmp_path), "class_names": [str(i) for i in range(10)]}
    found = load_dataset(spec)
    assert found.sizes == {"train": 1035, "validation": 114, "test": 359}
    passes = [
        [
            np.concatenate([images for images, _ in batches.as_numpy_iterator()])
            for batches in [found.batches(split, 100, shuffle_seed=seed)]
        ][0]
        for split, seed in (("train", 1), ("train", 2), ("validation", None))
    ]
    one, two, held_out = ({image.tobytes() for image in images} for images in passes)
    assert one == two and len(passes[0]) == 1035
    assert not np.array_equal(passes[0], passes[1])
    everything = {image.tobytes() for image in digits.arrays("train")[0]}
    assert one | held_out == everything
    assert load_dataset(spec).fingerprint == found.fingerprint
    with pytest.raises(DatasetError, match="give class_names"):
        load_dataset({"examples": str(tmp_path)})


PNG = tf.io.encode_png(np.zeros((4, 4, 1), np.uint8)).numpy()

BAD = {
    "there are no files": lambda root: None,
    "no test examples": lambda root: write(root / "train", some(4)),
    "no tf.Examples": lambda root: write(root / "train", [b"\xff\xff\xff"]),
    "has no examples": lambda root: write(root / "train", []),
    "feature is the image": lambda root: write(root / "train", [example(label=1)]),
    "feature is the label": lambda root: write(root / "train", [example(image=PNG)]),
    "no square": lambda root: write(root / "train", some(4, shape=(2, 5, 1))),
    "no PNG, JPEG": lambda root: write(
        root / "train", [example(image=PNG[:20] + b"x", label=1)]
    ),
    "not one whole number": lambda root: write(
        root / "train", [example(image=PNG, label=np.array([1.0, 2.0]))]
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_examples_are_one_line(words, tmp_path):
    tmp_path.joinpath("x").mkdir()
    BAD[words](tmp_path / "x")
    if words not in ("there are no files", "no test examples"):
        write(tmp_path / "x" / "eval", some(4))
    with pytest.raises(DatasetError, match=words) as caught:
        load_dataset({"examples": str(tmp_path / "x")})
    assert "\n" not in str(caught.value)


def test_examples_that_do_not_fit_each_other(tmp_path):
    write(tmp_path / "train", some(6))
    write(tmp_path / "eval", some(6, classes=5))
    spec = {"examples": str(tmp_path)}
    with pytest.raises(DatasetError, match="from 0 to 4, but there are 3 classes"):
        load_dataset(spec)
    assert load_dataset(spec | {"class_names": list("abcde")}).num_classes == 5
    shutil.rmtree(tmp_path / "eval")
    write(tmp_path / "eval", some(6, shape=(5, 5, 1)))
    with pytest.raises(DatasetError, match="do not have the image 'image'"):
        load_dataset(spec)
    with pytest.raises(DatasetError, match="no feature 'picture' for the image"):
        load_dataset(spec | {"features": {"image": "picture"}})
    with pytest.raises(DatasetError, match="did you mean 'image'"):
        load_dataset(spec | {"features": {"imag": "picture"}})
    with pytest.raises(DatasetError, match="one of folder, idx and examples"):
        load_dataset(spec | {"folder": "x"})
    with pytest.raises(DatasetError, match="belong to examples"):
        load_dataset({"name": "digits", "class_names": ["a"]})
    with pytest.raises(DatasetError, match="does not exist"):
        load_dataset({"examples": str(tmp_path / "none")})


def test_nothing_is_written_over(digits, written, tmp_path):
    before = sorted(path.stat().st_mtime_ns for path in written.rglob("*"))
    with pytest.raises(DatasetError, match="exists already"):
        write_examples(digits, written)
    assert sorted(path.stat().st_mtime_ns for path in written.rglob("*")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_examples(digits, tmp_path / "file")
