"""Tiny classifiers for 8x8 images, and one trained on digits."""

import keras
import pytest
from keras import layers

from tfcompress.data import load_dataset


def make_net(seed=0, *, width=6, activation=None, classes=10, name=None, **options):
    """Convolution, batch normalization, dense; `options` go to both kernels."""
    initializer = [keras.initializers.GlorotUniform(seed=seed + i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(
                width, 3, strides=2, kernel_initializer=initializer[0], **options
            ),
            layers.BatchNormalization(dtype=options.get("dtype")),
            layers.ReLU(dtype=options.get("dtype")),
            layers.Flatten(dtype=options.get("dtype")),
            layers.Dense(
                classes,
                activation=activation,
                kernel_initializer=initializer[1],
                **options,
            ),
        ],
        name=name,
    )


@pytest.fixture(scope="session")
def net():
    return make_net


@pytest.fixture(scope="session")
def digits():
    data = load_dataset("digits")
    return {split: data.arrays(split) for split in ("train", "validation")}


@pytest.fixture(scope="session")
def teacher(digits):
    model = make_net(100, width=24, name="teacher")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    keras.utils.set_random_seed(0)
    model.optimizer.build(model.trainable_variables)
    # Whole batches: a smaller last one would be traced on its own.
    data = [part[:1408] for part in digits["train"]]
    model.fit(*data, batch_size=64, epochs=8, verbose=0)
    return model
