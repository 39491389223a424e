"""The small networks on digits that short benchmarks share, trained once and kept."""

from __future__ import annotations

from typing import Any

import keras

from benchmarks.networks import CACHE
from tfcompress import models
from tfcompress.data import Dataset, load_dataset
from tfcompress.distill import Supervised, ViewSpec, fit

BATCH_SIZE = 128
EPOCHS = 40
OPTIONS = {"depth": 8, "width": 16}
VIEWS = ViewSpec(mode="consistent", crop="mild", flip=False)


def digits() -> Dataset:
    """Handwritten digits of 8x8 pixels, which come with scikit-learn."""
    return load_dataset({"name": "digits"})


def batches(data: Dataset, seed: int) -> Any:
    """Shuffled training batches without an end."""
    return data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True)


def held_out(data: Dataset) -> Any:
    """Validation and test images together: nothing is chosen on either."""
    return data.batches("validation", 500).concatenate(data.batches("test", 500))


def steps_per_epoch(data: Dataset) -> int:
    """Whole batches in the training split."""
    return data.sizes["train"] // BATCH_SIZE


def digits_network(seed: int, data: Dataset) -> keras.Model:
    """A ResNet-8 of 16 channels, trained by labels; from the cache where it is there.

    Args:
        seed: of initial weights, shuffling and crops.
        data: from `digits()`.
    """
    path = CACHE / f"digits-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    model = models.resnet(data.image_shape, data.num_classes, seed=seed, **OPTIONS)
    fit(
        Supervised(model, views=VIEWS, seed=seed),
        batches(data, seed),
        None,
        epochs=EPOCHS,
        steps_per_epoch=steps_per_epoch(data),
        learning_rate=3e-3,
        jit_compile=False,
    )
    CACHE.mkdir(exist_ok=True)
    model.save(path)
    return model
