"""`load_dataset`: from what a recipe says to a `Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data.composed import COMPOSED
from tfcompress.data.dataset import Dataset
from tfcompress.data.examples import load_examples
from tfcompress.data.folders import load_folder
from tfcompress.data.idx import find_idx_folder, read_idx_folder
from tfcompress.data.sources import MemorySource, resize_images
from tfcompress.data.spec import DatasetError, DatasetSpec, as_spec
from tfcompress.data.splits import (
    SPLITS,
    balanced_subset,
    holdout_split,
    stratified_split,
)
from tfcompress.data.tfds_data import download_builder, load_builder, prepared_builder
from tfcompress.metric import CLASSIFICATION

# A mirrored digit or letter is another one, or none.
_NOT_MIRROR_SYMMETRIC = frozenset(
    {
        "binarized_mnist",
        "digits",
        "emnist",
        "kmnist",
        "mnist",
        "mnist_corrupted",
        "omniglot",
        "qmnist",
        "svhn",
        "svhn_cropped",
        # Nor is a mirrored angle.
        "turned_digits",
    }
)


def load_dataset(
    spec: DatasetSpec | str | Mapping[str, Any], *, split_seed: int = 0
) -> Dataset:
    """Loads a dataset and splits it into train, validation and test.

    A name is looked up in this order: `"digits"`; what is composed of other data
    (`"scene_boxes"`, `"scene_masks"`, `"turned_digits"`); a TFDS dataset prepared on
    disk; IDX files in `$TFCOMPRESS_DATA/<name>` or `/usr/share/datasets/<name>`; a
    download by TFDS.

    Args:
        spec: a name, or the options of `DatasetSpec`.
        split_seed: of the random splits (digits, IDX files, and folders without a
            validation split). Keep it fixed while comparing models.

    Returns:
        The `Dataset`.

    Raises:
        DatasetError: if the data is missing, damaged, or not images with labels.

    Example:
        >>> load_dataset("digits").image_shape
        (8, 8, 1)
    """
    spec = as_spec(spec)
    if spec.folder is not None:
        return _from_folder(spec, split_seed)
    if spec.idx is not None:
        return _from_idx(spec, Path(spec.idx), split_seed)
    if spec.examples is not None:
        found = load_examples(spec, split_seed=split_seed)
        return _dataset(
            spec,
            found.shape,
            found.class_names,
            found.sources,
            lambda: found.fingerprint,
        )
    if spec.name == "digits":
        return _from_digits(spec, split_seed)
    if spec.name in COMPOSED:
        return _composed(spec, split_seed)
    builder = prepared_builder(spec.name, data_dir=spec.data_dir)
    if builder is None:
        folder = find_idx_folder(spec.name)
        if folder is not None:
            return _from_idx(spec, folder, split_seed)
        builder = download_builder(spec.name, data_dir=spec.data_dir)
    found = load_builder(builder, spec)
    return _dataset(
        spec, found.shape, found.class_names, found.sources, lambda: found.fingerprint
    )


def _from_digits(spec: DatasetSpec, split_seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    parts = stratified_split(labels, fractions=(0.64, 0.16, 0.2), seed=split_seed)
    arrays = {
        split: (images[part], labels[part])
        for split, part in zip(SPLITS, parts, strict=True)
    }
    return _from_arrays(spec, arrays, tuple(str(i) for i in range(10)))


def _composed(spec: DatasetSpec, split_seed: int) -> Dataset:
    compose, origin = COMPOSED[spec.name]
    source = load_dataset(
        {"name": origin, "data_dir": spec.data_dir}, split_seed=split_seed
    )
    found = compose(spec, source, split_seed)
    return _of_arrays(spec, found.arrays, found.class_names, task=found.task)


def _from_idx(spec: DatasetSpec, folder: Path, split_seed: int) -> Dataset:
    data = read_idx_folder(folder, name=spec.name or folder.name)
    kept, held_out = holdout_split(
        len(data.train_images), fraction=0.1, seed=split_seed
    )
    if not len(held_out):
        raise DatasetError(
            f"IDX folder '{folder}' has too few training images "
            f"({len(data.train_images)}) to hold out a validation split; 5 or more "
            "are needed"
        )
    arrays = {
        "train": (data.train_images[kept], data.train_labels[kept]),
        "validation": (data.train_images[held_out], data.train_labels[held_out]),
        "test": (data.test_images, data.test_labels),
    }
    return _from_arrays(spec, arrays, data.class_names)


def _from_folder(spec: DatasetSpec, split_seed: int) -> Dataset:
    found = load_folder(spec, split_seed=split_seed)
    return _dataset(
        spec, found.shape, found.class_names, found.sources, lambda: found.fingerprint
    )


def _from_arrays(
    spec: DatasetSpec,
    arrays: dict[str, tuple[np.ndarray, np.ndarray]],
    class_names: tuple[str, ...],
) -> Dataset:
    if spec.train_limit is not None:
        images, labels = arrays["train"]
        chosen = balanced_subset(labels, spec.train_limit)
        arrays["train"] = (images[chosen], labels[chosen])
    size = spec.image_size
    if size is not None and size != arrays["train"][0].shape[1:3]:
        arrays = {
            split: (_resize_all(images, size), labels)
            for split, (images, labels) in arrays.items()
        }
    return _of_arrays(spec, arrays, class_names)


def _of_arrays(
    spec: DatasetSpec,
    arrays: Mapping[str, tuple[np.ndarray, Any]],
    class_names: tuple[str, ...],
    *,
    task: str = CLASSIFICATION,
) -> Dataset:
    sources = {split: MemorySource(*arrays[split]) for split in SPLITS}

    def identify() -> str:
        digest = hashlib.sha256(repr(class_names).encode())
        for split in SPLITS:
            images, labels = sources[split].arrays()
            digest.update(f"{split} {images.shape}".encode())
            digest.update(np.ascontiguousarray(images).data)
            for part in _parts(labels):
                digest.update(part.data)
        return digest.hexdigest()

    shape = arrays["train"][0].shape[1:]
    return _dataset(spec, shape, class_names, sources, identify, task=task)


def _parts(labels: Any) -> list[np.ndarray]:
    """Targets as arrays of one byte order."""
    parts = labels.values() if isinstance(labels, Mapping) else [labels]
    kinds = [(x, "<i4" if x.dtype.kind in "iu" else "<f4") for x in parts]
    return [np.ascontiguousarray(x, dtype=kind) for x, kind in kinds]


def _resize_all(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # In parts, because resizing makes float32 copies.
    parts = [images[i : i + 1024] for i in range(0, len(images), 1024)]
    return np.concatenate([resize_images(part, size).numpy() for part in parts])


def _dataset(
    spec: DatasetSpec,
    shape: tuple[int, ...],
    class_names: tuple[str, ...],
    sources: Mapping[str, Any],
    identify: Callable[[], str],
    *,
    task: str = CLASSIFICATION,
) -> Dataset:
    height, width, channels = (int(n) for n in shape)
    name = (
        spec.name or Path(spec.folder or spec.idx or spec.examples or "").resolve().name
    )
    base = name.replace("-", "_").split(":")[0].split("/")[0].lower()
    return Dataset(
        name=name,
        image_shape=(height, width, channels),
        class_names=class_names,
        mirror_symmetric=base not in _NOT_MIRROR_SYMMETRIC,
        pixel_range=spec.pixel_range,
        task=task,
        _sources=sources,
        _identify=identify,
    )
