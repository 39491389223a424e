"""Images and labels in TFRecord files of tf.Examples, as TFX keeps its data.

A split is a folder of files: `train/`, or `Split-train/` as in an artefact of TFX.
Images are encoded (PNG, JPEG), or raw numbers; files are plain or gzipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.data.features import (
    DIFFERENT_SIZES,
    Features,
    find_features,
    known_features,
)
from tfcompress.data.sources import (
    MEMORY_LIMIT_BYTES,
    MemorySource,
    StreamSource,
)
from tfcompress.data.spec import DatasetError, DatasetSpec
from tfcompress.data.splits import SPLITS, balanced_subset, holdout_split

if TYPE_CHECKING:
    import tensorflow as tf

_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val"),
    "test": ("test", "eval"),
}
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class ExampleSplits:
    """What `load_examples` found."""

    sources: dict[str, Any]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str


def load_examples(spec: DatasetSpec, *, split_seed: int) -> ExampleSplits:
    """Finds the files of each split, and the features of image and label in them.

    Where there is no `validation`, 10 % of `train` are held out for it; `eval` counts
    as `test`. Data that fits into memory is put in an order of its own (by the feature
    `id` where there is one, else by content), so that what ExampleGen has shuffled
    gives the same training as the original.

    Args:
        spec: with `examples`.
        split_seed: of the split of training and validation.

    Raises:
        DatasetError: a missing folder or split, no image or label in the examples,
            images that differ in shape, or labels out of range.
    """
    files = split_files(spec.examples or "")
    features = example_features(spec)
    if _held_in_memory(files, features):
        return _in_memory(spec, files, features, split_seed)
    return _streamed(spec, files, features)


def example_features(spec: DatasetSpec) -> Features:
    """Which features hold image and label: as the spec says, or as the first tells.

    Raises:
        DatasetError: see `load_examples`.
    """
    files = split_files(spec.examples or "")["train"]
    first = _first_example(files)
    if spec.features:
        return known_features(spec.features, first, where=f"'{files[0]}'")
    return find_features(first, where=f"'{files[0]}'")


def split_files(root: str) -> dict[str, list[str]]:
    """The files of each split; no `validation` where none is given.

    Args:
        root: a folder, here or anywhere that `tf.io.gfile` reads (`gs://...`).

    Raises:
        DatasetError: no such folder, or no training or test examples in it.
    """
    from tensorflow.io import gfile

    if not gfile.isdir(root):
        raise DatasetError(f"examples folder '{root}' does not exist; check the path")
    found: dict[str, list[str]] = {}
    for split, names in _SPLIT_NAMES.items():
        for name in names:
            for folder in (os.path.join(root, x) for x in (name, f"Split-{name}")):
                if not gfile.isdir(folder):
                    continue
                files = [
                    os.path.join(folder, file)
                    for file in sorted(gfile.listdir(folder))
                    if not file.startswith((".", "_"))
                ]
                files = [file for file in files if not gfile.isdir(file)]
                if files:
                    found.setdefault(split, files)
    for split in ("train", "test"):
        if split not in found:
            names = " or ".join(f"{name}/" for name in _SPLIT_NAMES[split])
            raise DatasetError(
                f"examples folder '{root}' has no {split} examples: there are no files "
                f"in {names} (or Split-{_SPLIT_NAMES[split][-1]}/)"
            )
    return found


def read_records(files: Sequence[str], *, interleaved: bool = False) -> tf.data.Dataset:
    """The serialized examples of TFRecord files, plain or gzipped.

    Args:
        files: all plain or all gzipped.
        interleaved: read several files at once, in an order that is the same each time.
    """
    import tensorflow as tf

    with tf.io.gfile.GFile(files[0], "rb") as file:
        compression = "GZIP" if file.read(2) == _GZIP else ""
    return tf.data.TFRecordDataset(
        list(files),
        compression_type=compression,
        num_parallel_reads=min(len(files), 8) if interleaved else None,
    )


def _records(files: Sequence[str]) -> Iterator[bytes]:
    import tensorflow as tf

    try:
        yield from read_records(files).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise DatasetError(
            f"the examples in '{Path(files[0]).parent}' cannot be read "
            f"({error.message[:200]}); expected TFRecord files of tf.Examples"
        ) from error


def _first_example(files: Sequence[str]) -> Any:
    import tensorflow as tf

    record = next(_records(files), None)
    if record is None:
        raise DatasetError(f"'{files[0]}' has no examples; run ExampleGen again")
    try:
        return tf.train.Example.FromString(record)
    # Of protobuf's own type, which has moved between its versions.
    except Exception as error:
        raise DatasetError(
            f"'{files[0]}' holds records that are no tf.Examples"
        ) from error


def _held_in_memory(files: dict[str, list[str]], features: Features) -> bool:
    stored = sum(_size(file) for some in files.values() for file in some)
    # Encoded and gzipped images are smaller than what they become.
    packed = 10 if features.encoded or files["train"][0].endswith(".gz") else 1
    return stored * packed <= MEMORY_LIMIT_BYTES


def _size(file: str) -> int:
    from tensorflow.io import gfile

    return gfile.stat(file).length


def _in_memory(
    spec: DatasetSpec,
    files: dict[str, list[str]],
    features: Features,
    split_seed: int,
) -> ExampleSplits:
    arrays = {split: _arrays(some, features, spec) for split, some in files.items()}
    if "validation" not in arrays:
        images, labels = arrays["train"]
        kept, held_out = holdout_split(len(labels), fraction=0.1, seed=split_seed)
        arrays["validation"] = (images[held_out], labels[held_out])
        arrays["train"] = (images[kept], labels[kept])
    shape = arrays["train"][0].shape[1:]
    for split, (images, _) in arrays.items():
        if not len(images) or images.shape[1:] != shape:
            raise DatasetError(
                f"examples of '{split}' have images of shape {images.shape[1:]}, those "
                f"of 'train' {shape}; give image_size"
            )
    names = _class_names(spec, {s: labels for s, (_, labels) in arrays.items()})
    if spec.train_limit is not None:
        images, labels = arrays["train"]
        chosen = balanced_subset(labels, spec.train_limit)
        arrays["train"] = (images[chosen], labels[chosen])
    digest = hashlib.sha256(repr(names).encode())
    for split in SPLITS:
        images, labels = arrays[split]
        digest.update(f"{split} {images.shape} {images.dtype}".encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i4").data)
    sources = {split: MemorySource(*arrays[split]) for split in SPLITS}
    return ExampleSplits(sources, shape, names, digest.hexdigest())


def _arrays(
    files: Sequence[str], features: Features, spec: DatasetSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split, in an order that does not depend on the files'."""
    import tensorflow as tf

    records = list(_records(files))
    images, labels, keys = [], [], []
    for start in range(0, len(records), 1024):
        part = tf.constant(records[start : start + 1024])
        try:
            parsed = features.parse(part, size=spec.image_size, identified=True)
        except tf.errors.InvalidArgumentError as error:
            if DIFFERENT_SIZES in error.message:
                raise DatasetError(
                    f"the {DIFFERENT_SIZES} in '{Path(files[0]).parent}'; give "
                    "image_size"
                ) from error
            raise DatasetError(
                f"examples in '{Path(files[0]).parent}' do not have the image "
                f"'{features.image}' and the label '{features.label}' of the first one "
                f"({str(error.message)[:160]})"
            ) from error
        images.append(parsed["image"].numpy())
        labels.append(parsed["label"].numpy())
        keys.append(parsed["id"].numpy())
    image, label, key = (np.concatenate(some) for some in (images, labels, keys))
    if features.id is None:
        content = [
            hashlib.sha256(np.ascontiguousarray(one).data).digest() for one in image
        ]
        order = sorted(range(len(label)), key=lambda i: (content[i], label[i]))
    else:
        order = np.argsort(key, kind="stable")
    return image[order], label[order].astype(np.int32)


def _class_names(spec: DatasetSpec, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    names = spec.class_names
    count = len(names) if names else int(labels["train"].max()) + 1
    for split, found in labels.items():
        if found.min() < 0 or found.max() >= count:
            raise DatasetError(
                f"examples of '{split}' have labels from {found.min()} to "
                f"{found.max()}, but there are {count} classes (0 to {count - 1}); "
                "give class_names, or mend the labels"
            )
    return names or tuple(str(index) for index in range(count))


def _streamed(
    spec: DatasetSpec, files: dict[str, list[str]], features: Features
) -> ExampleSplits:
    """Splits read from the files in every pass, for data larger than memory."""
    if not spec.class_names:
        raise DatasetError(
            "examples too large for memory are not searched for their classes: give "
            "class_names"
        )
    size = spec.image_size
    resized = size is not None and features.encoded
    shape = (*size, features.shape[2]) if resized else features.shape
    counts = {split: _count(some) for split, some in files.items()}
    held_out = "validation" not in files
    share = 10
    # Every tenth record, counted through all files.
    if held_out:
        counts["validation"] = counts["train"] // share
        counts["train"] -= counts["validation"]

    def reader(split: str) -> Any:
        def read(shuffle_seed: int | None) -> tf.data.Dataset:
            import tensorflow as tf

            place = "train" if held_out and split == "validation" else split
            records = read_records(files[place], interleaved=True)
            if held_out and split != "test":
                wanted = split == "validation"
                records = (
                    records.enumerate()
                    .filter(lambda i, _: tf.equal(i % share == share - 1, wanted))
                    .map(lambda _, record: record)
                )

            def parse(record: Any) -> Any:
                found = features.parse(record[None], size=size)
                label = tf.cast(found["label"][0], tf.int32)
                tf.debugging.assert_less(
                    label, len(spec.class_names), message="label out of range"
                )
                return tf.ensure_shape(found["image"][0], shape), label

            return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE)

        return read

    sources = {
        split: StreamSource(
            reader(split),
            available=counts[split],
            shape=shape,
            num_classes=len(spec.class_names),
            limit=spec.train_limit if split == "train" else None,
        )
        for split in SPLITS
    }
    digest = hashlib.sha256(repr((shape, spec.class_names, counts)).encode())
    for split in sorted(files):
        for file in files[split]:
            digest.update(f"{split} {Path(file).name} {_size(file)}".encode())
    return ExampleSplits(sources, shape, spec.class_names, digest.hexdigest())


def _count(files: Sequence[str]) -> int:
    import tensorflow as tf

    count = read_records(files, interleaved=True).reduce(
        tf.constant(0, tf.int64), lambda total, _: total + 1
    )
    return int(count)


def write_examples(
    data: Any, folder: str | os.PathLike, *, shards: int = 1, encoded: bool = False
) -> Path:
    """Writes a data set as tf.Examples: what ImportExampleGen takes.

    Features: `image` (float32 numbers in the data's pixel range, rows first, or PNG),
    `label` and `id` (the image's number in its split).

    Args:
        data: a `Dataset`.
        folder: gets `train/`, `validation/` and `test/`; must not hold them yet.
        shards: files for each split.
        encoded: write PNG, eight bits a channel.

    Returns:
        The folder.

    Raises:
        DatasetError: the folder holds a split already, or cannot be written.

    Example:
        >>> write_examples(load_dataset("digits"), "examples", shards=2)
        PosixPath('examples')
    """
    folder = Path(folder)
    for split in SPLITS:
        if (folder / split).exists():
            raise DatasetError(
                f"'{folder / split}' exists already; choose another folder"
            )
    try:
        for split in SPLITS:
            _write_split(data, split, folder / split, shards, encoded)
    except OSError as error:
        raise DatasetError(
            f"examples cannot be written to '{folder}' ({error.strerror or error})"
        ) from error
    return folder


def _write_split(
    data: Any, split: str, folder: Path, shards: int, encoded: bool
) -> None:
    import tensorflow as tf

    folder.mkdir(parents=True)
    count = data.sizes[split]
    per_shard = math.ceil(count / shards)
    low, high = data.pixel_range
    number = 0
    writer = None
    for images, labels in data.batches(split, 256).as_numpy_iterator():
        for image, label in zip(images, labels, strict=True):
            if number % per_shard == 0:
                if writer is not None:
                    writer.close()
                name = f"data-{number // per_shard:05d}-of-{shards:05d}.tfrecord"
                writer = tf.io.TFRecordWriter(str(folder / name))
            writer.write(_example(image, label, number, (low, high), encoded))
            number += 1
    if writer is not None:
        writer.close()


def _example(
    image: np.ndarray,
    label: int,
    number: int,
    pixel_range: tuple[float, float],
    encoded: bool,
) -> bytes:
    import tensorflow as tf

    if encoded:
        low, high = pixel_range
        pixels = np.round((image - low) / (high - low) * 255).astype(np.uint8)
        png = tf.io.encode_png(pixels).numpy()
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    else:
        feature = tf.train.Feature(
            float_list=tf.train.FloatList(value=image.reshape(-1))
        )
    integers = {"label": int(label), "id": number}
    features = {
        "image": feature,
        **{
            key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            for key, value in integers.items()
        },
    }
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()
