"""Data and training that the tests of this folder share."""

import keras
import pytest

from tfcompress.data import load_dataset


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="session")
def by_labels(digits):
    """A function that trains a network on digits, and returns it."""

    def train(network, *, epochs, learning_rate=1e-3):
        network.compile(
            keras.optimizers.Adam(learning_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        keras.utils.set_random_seed(0)
        network.fit(*digits.arrays("train"), batch_size=64, epochs=epochs, verbose=0)
        return network

    return train
