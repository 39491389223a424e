"""`import_idx`: IDX files become a prepared TFDS dataset."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data.idx import IdxSet, read_idx_folder
from tfcompress.data.spec import DatasetError
from tfcompress.data.tfds_data import require_tfds_writer

_UNREGISTERED_VERSION = "1.0.0"


def import_idx(
    folder: str | os.PathLike[str],
    *,
    name: str,
    data_dir: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Turns IDX files into a dataset that `tfds.load(name, data_dir=...)` reads.

    A name that TFDS knows (`fashion_mnist`) gets the version TFDS expects, so that
    plain `tfds.load` finds it; any other name gets version 1.0.0. Images keep their
    order and every byte.

    Args:
        folder: holds the four IDX files.
        name: of the dataset: lower-case letters, digits and underscores.
        data_dir: the TFDS data folder to write to; created where missing.
        overwrite: replace a dataset of this name and version.

    Returns:
        The folder of the prepared dataset, `data_dir/name/version`.

    Raises:
        DatasetError: if the files do not form a dataset, the name does not fit, or
            the dataset exists already. Nothing is left behind then.

    Example:
        >>> import_idx("idx/", name="my_digits", data_dir="tfds/")  # doctest: +SKIP
        PosixPath('tfds/my_digits/1.0.0')
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DatasetError(
            "a TFDS name has lower-case letters, digits and underscores only. "
            f"Received: '{name}'"
        )
    data = read_idx_folder(folder, name=name)
    require_tfds_writer()
    version, class_names = _registered(name, data)
    root = Path(data_dir)
    target = root / name / version
    if target.exists() and not overwrite:
        raise DatasetError(f"'{target}' exists already; use overwrite to replace it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        # In `data_dir` itself, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".import-idx-", dir=root) as staging:
            _write(data, name, version, class_names, staging)
            _replace(Path(staging) / name / version, target, Path(staging) / "old")
    except OSError as error:
        raise DatasetError(f"cannot write to '{root}': {error}") from error
    return target


def _write(
    data: IdxSet,
    name: str,
    version: str,
    class_names: tuple[str, ...],
    data_dir: str,
) -> None:
    import tensorflow_datasets as tfds

    shape = data.train_images.shape[1:]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape, dtype=np.uint8),
                "label": tfds.features.ClassLabel(names=class_names),
            }
        ),
        split_datasets={
            "train": _examples(data.train_images, data.train_labels),
            "test": _examples(data.test_images, data.test_labels),
        },
        data_dir=data_dir,
        description=f"{name}, imported from IDX files by tfcompress.",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        disable_shuffling=True,
    )
    # store_as_tfds_dataset takes no supervised_keys, and without them
    # `tfds.load(..., as_supervised=True)` fails.
    path = Path(data_dir) / name / version / "dataset_info.json"
    info = json.loads(path.read_text())
    info["supervisedKeys"] = {
        "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}
    }
    path.write_text(json.dumps(info, indent=2, sort_keys=True))


def _examples(
    images: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield i, {"image": image, "label": int(label)}


def _registered(name: str, data: IdxSet) -> tuple[str, tuple[str, ...]]:
    """Version and class names to write, such that TFDS' own code can read them."""
    import tensorflow_datasets as tfds

    if name not in tfds.list_builders(with_community_datasets=False):
        return _UNREGISTERED_VERSION, data.class_names
    with tempfile.TemporaryDirectory() as empty:
        info = tfds.builder(name, data_dir=empty).info
    features = dict(getattr(info.features, "items", dict)())
    fits = (
        set(features) == {"image", "label"}
        and isinstance(features["image"], tfds.features.Image)
        and isinstance(features["label"], tfds.features.ClassLabel)
        and features["image"].shape == data.train_images.shape[1:]
        and features["label"].num_classes == len(data.class_names)
        and not info.config_name
    )
    if not fits:
        raise DatasetError(
            f"TFDS has a dataset '{name}' with other features than these files "
            f"({data.train_images.shape[1:]}, {len(data.class_names)} classes); "
            "choose another name"
        )
    return str(info.version), tuple(features["label"].names)


def _replace(source: Path, target: Path, old: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        os.replace(source, target)
        return
    os.replace(target, old)
    try:
        os.replace(source, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)
