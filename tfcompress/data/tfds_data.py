"""Datasets of TensorFlow Datasets: finding, preparing and splitting them."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import socket
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.data.sources import StreamSource, resize_images
from tfcompress.data.spec import DatasetError, DatasetSpec
from tfcompress.data.splits import SPLITS

if TYPE_CHECKING:
    import tensorflow as tf


def prepared_builder(name: str, *, data_dir: str | None) -> Any | None:
    """The TFDS builder of a dataset that is on disk, or `None`.

    Also finds a registered name prepared under another version, and datasets that
    have no code (made by `tfds.dataset_builders.store_as_tfds_dataset`).

    Raises:
        DatasetError: if TFDS knows the name but not its version or config.
    """
    import tensorflow_datasets as tfds

    not_found = tfds.core.registered.DatasetNotFoundError
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.is_prepared():
            return builder
    except not_found:
        return None
    except (AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        reason = reason.partition('}": ')[2] or reason  # drop "Failed to construct"
        raise DatasetError(
            f"TFDS cannot open '{name}': {reason}; check version and config"
        ) from error
    if ":" in name:
        return None
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except not_found:
        return None


def download_builder(name: str, *, data_dir: str | None) -> Any:
    """Downloads and prepares a dataset that TFDS knows.

    Raises:
        DatasetError: if TFDS does not know the name, or cannot get the data.
    """
    import tensorflow_datasets as tfds

    base = name.split(":")[0].split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        near = difflib.get_close_matches(base, [*known, "digits"], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "use a "
        hint += "" if near else "TFDS name, 'digits', a folder or idx"
        raise DatasetError(f"no dataset '{name}'; {hint}")
    require_tfds_writer()
    ways_out = (
        "connect to the network, give the data_dir of a prepared copy, or turn IDX "
        "files into one with import-idx"
    )
    builder = tfds.builder(name, data_dir=data_dir)
    host = _unreachable_host(builder)
    if host is not None:
        raise DatasetError(
            f"dataset '{name}' is not on disk and {host} cannot be reached; {ways_out}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        # TFDS lets through whatever requests, urllib3, apache_beam or the dataset's
        # own code raise; all of it means that the data could not be had.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(
            f"dataset '{name}' could not be downloaded and prepared "
            f"({reason[:200]}); {ways_out}"
        ) from error
    return builder


def require_tfds_writer() -> None:
    """Checks for what TFDS needs to write a dataset, but does not itself declare.

    Raises:
        DatasetError: if `importlib_resources` is missing
            (https://github.com/tensorflow/datasets/issues/11212).
    """
    if importlib.util.find_spec("importlib_resources") is None:
        raise DatasetError(
            "tensorflow-datasets cannot prepare a dataset without the package "
            "importlib_resources; pip install importlib_resources"
        )


def load_builder(builder: Any, spec: DatasetSpec) -> TfdsSplits:
    """Splits a prepared dataset and finds its images and labels.

    The official test split is the test. Validation is the official one, else the
    last 10 % of train. With `validation` but no `test` (ImageNet), validation is
    the test and the last 2 % of train are the validation.

    Raises:
        DatasetError: if it has no train split, no uint8 image with a class label,
            or images of differing size and no `image_size` is given.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    info = builder.info
    image_key, label_key = _find_features(info)
    stored = info.features[image_key].shape
    size = spec.image_size or stored[:2]
    if None in size:
        raise DatasetError(
            f"images of '{info.name}' differ in size; give image_size, such as "
            "image_size: [224, 224]"
        )
    shape = (*size, stored[2] or 3)
    label = info.features[label_key]
    instructions = _split_instructions(info)

    def reader(instruction: str) -> Any:
        def read(shuffle_seed: int | None) -> tf.data.Dataset:
            examples = builder.as_dataset(
                split=instruction,
                shuffle_files=shuffle_seed is not None,
                read_config=tfds.ReadConfig(
                    shuffle_seed=shuffle_seed, try_autocache=False
                ),
            )

            def pick(example: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
                image = example[image_key]
                if tuple(size) != tuple(stored[:2]):
                    image = resize_images(image, size)
                image = tf.ensure_shape(image, shape)
                return image, tf.cast(example[label_key], tf.int32)

            return examples.map(pick, num_parallel_calls=tf.data.AUTOTUNE)

        return read

    sources = {}
    for split in SPLITS:
        count = info.splits[instructions[split]].num_examples
        if not count:
            raise DatasetError(
                f"'{info.name}' leaves no images for {split} "
                f"({instructions[split]}); use a larger dataset"
            )
        sources[split] = StreamSource(
            reader(instructions[split]),
            available=count,
            shape=shape,
            num_classes=label.num_classes,
            limit=spec.train_limit if split == "train" else None,
        )
    identity = (info.full_name, instructions, shape, spec.train_limit)
    sizes = {name: part.num_examples for name, part in info.splits.items()}
    digest = hashlib.sha256(repr((*identity, sorted(sizes.items()))).encode())
    return TfdsSplits(sources, shape, tuple(label.names), digest.hexdigest())


@dataclasses.dataclass(frozen=True)
class TfdsSplits:
    """What `load_builder` found."""

    sources: dict[str, StreamSource]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str


def _find_features(info: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    # Sorted, because a dataset read back from disk has lost their order.
    features = dict(sorted(getattr(info.features, "items", dict)()))
    image = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    label = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if info.supervised_keys and len(info.supervised_keys) == 2:
        # Where there are several, the dataset's own choice comes first.
        image.sort(key=lambda key: key != info.supervised_keys[0])
        label.sort(key=lambda key: key != info.supervised_keys[1])
    if not image or not label:
        missing = "image" if not image else "class label"
        raise DatasetError(
            f"'{info.name}' has no {missing} among its features "
            f"({', '.join(features) or 'none'}); use an image classification dataset"
        )
    dtype = np.dtype(features[image[0]].np_dtype)
    if dtype != np.uint8:
        raise DatasetError(
            f"images of '{info.name}' are {dtype}; only uint8 images are supported"
        )
    return image[0], label[0]


def _split_instructions(info: Any) -> dict[str, str]:
    if "train" not in info.splits:
        raise DatasetError(
            f"'{info.name}' has no train split (it has: {', '.join(info.splits)}); "
            "use a dataset with one"
        )
    has_test, has_validation = "test" in info.splits, "validation" in info.splits
    if has_test and has_validation:
        return {split: split for split in SPLITS}
    if has_test:
        return {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    if has_validation:
        return {
            "train": "train[:98%]",
            "validation": "train[98%:]",
            "test": "validation",
        }
    return {
        "train": "train[:80%]",
        "validation": "train[80%:90%]",
        "test": "train[90%:]",
    }


def _unreachable_host(builder: Any) -> str | None:
    # Without a network, TFDS retries for more than three minutes before it fails.
    # Behind a proxy, names need not resolve here, so nothing can be told.
    if urllib.request.getproxies():
        return None
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or {}}
    for host in sorted(filter(None, hosts)):
        try:
            socket.getaddrinfo(host, 443)
        except socket.gaierror:
            continue
        return None
    return min(filter(None, hosts), default=None)
