"""Small models that rank selectors are tried on."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.surgery import factorize


def decaying(shape, seed):
    """A kernel whose singular values fall, as those of trained kernels do."""
    rng = np.random.default_rng(seed)
    taps = rng.normal(size=(int(np.prod(shape[:-2])), *shape[-2:]))
    sides = [np.arange(1, n + 1) ** -0.5 for n in shape[-2:]]
    kernel = taps * sides[0][:, None] * sides[1]
    bases = [np.linalg.qr(rng.normal(size=(n, n)))[0] for n in shape[-2:]]
    return (bases[0] @ kernel @ bases[1]).reshape(shape)


def fill(model):
    for index, weight in enumerate(w for w in model.weights if w.name == "kernel"):
        weight.assign(decaying(weight.shape, index))
    return model


@pytest.fixture(scope="session")
def network():
    """Convolutions of three kinds, one nested, a shared one, and dense layers."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(24, 3, padding="same", name="stem")(inputs)
    shared = layers.Conv2D(24, 3, padding="same", name="shared")
    x = layers.ReLU(name="relu")(shared(shared(x)))
    x = layers.BatchNormalization(name="norm")(x)
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 24)),
            layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
        ],
        name="inner",
    )
    x = layers.Conv2D(48, 1, name="point")(inner(x))
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(40, activation="relu", name="hidden")(x)
    x = layers.Dense(10, name="logits")(x)
    return fill(keras.Model(inputs, x, name="network"))


@pytest.fixture(scope="session")
def factorized(network):
    """The same with most layers factorized, one by each layer type."""
    return factorize(
        network,
        {
            "shared": ("Tucker2Conv2D", (12, 16)),
            "inner/conv": ("SpatialSVDConv2D", (16,)),
            "point": ("ChannelSVDConv2D", (14,)),
            "hidden": ("FactorizedDense", (20,)),
        },
    )
