"""The trained networks and the data that the accuracy benchmarks share.

Two sizes: "small" makes the committed grids affordable on two cores; "full" is the
realistic version. Networks are trained once by labels and kept in `benchmarks/cache`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

from tfcompress import models
from tfcompress.data import Dataset, load_dataset
from tfcompress.distill import Supervised, ViewSpec, fit

CACHE = Path(__file__).parent / "cache"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much data, how large networks, how long a training.

    Attributes:
        train_limit: training images; None takes all of them.
        networks: name -> (reference network, its options).
        epochs: of the training by labels.
        learning_rate: its peak.
    """

    train_limit: int | None
    networks: dict[str, tuple[str, dict[str, Any]]]
    epochs: int
    learning_rate: float = 3e-3


SIZES = {
    "small": Size(
        train_limit=12_800,
        networks={
            "resnet": ("resnet", {"depth": 8, "width": 32, "stem_strides": 2}),
            "vgg": ("vgg", {"width": 16}),
        },
        epochs=20,
    ),
    "full": Size(
        train_limit=None,
        networks={
            "resnet": ("resnet", {"depth": 20, "width": 16}),
            "vgg": ("vgg", {"width": 32}),
        },
        epochs=30,
    ),
}

BATCH_SIZE = 128


def dataset(size: str) -> Dataset:
    """Fashion-MNIST; of the small size a fixed, balanced subset of the training set."""
    spec: dict[str, Any] = {"name": "fashion_mnist"}
    if SIZES[size].train_limit is not None:
        spec["train_limit"] = SIZES[size].train_limit
    return load_dataset(spec)


def trained(network: str, *, size: str, seed: int, data: Dataset) -> keras.Model:
    """A network trained by labels; from the cache where it was trained before.

    Args:
        network: "resnet" or "vgg".
        size: "small" or "full".
        seed: of initial weights, shuffling and views.
        data: from `dataset(size)`.
    """
    path = CACHE / f"{network}-{size}-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    name, options = SIZES[size].networks[network]
    model = models.build(name, data.image_shape, data.num_classes, seed=seed, **options)
    views = ViewSpec(mode="consistent", crop="mild", flip=True)
    fit(
        Supervised(model, views=views, seed=seed),
        data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True),
        None,
        epochs=SIZES[size].epochs,
        steps_per_epoch=data.sizes["train"] // BATCH_SIZE,
        learning_rate=SIZES[size].learning_rate,
    )
    CACHE.mkdir(exist_ok=True)
    model.save(path)
    return model
