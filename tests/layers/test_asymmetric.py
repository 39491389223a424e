"""Cutting factorized layers behind a prefix that has lost something already."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.statistics import collect_moments, factorize_on_data
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

HARSH = {"first": ("ChannelSVDConv2D", (3,))}
SECOND = {
    "ChannelSVDConv2D": ((20,), (6,)),
    "SpatialSVDConv2D": ((20,), (6,)),
    "Tucker2Conv2D": ((12, 20), (6, 8)),
    "CPConv2D": ((40,), (16,)),
}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10, 10, 4)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(24, 3, padding="same", name="second"),
        ]
    )
    model.get_layer("first").bias.assign(np.linspace(-0.3, 0.6, 16))
    return model


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 4)) * [2.0, 1.0, 0.3, 0.1]
    return (rng.normal(size=(64, 10, 10, 4)) @ mix).astype("float32")


def error(model, network, images):
    right = np.array(network(images))
    return np.mean(np.square(np.array(model(images)) - right)) / np.var(right)


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("max_size", [2304, 16])
def test_truncation_makes_up_for_the_prefix(network, images, name, max_size):
    high, low = SECOND[name]
    batches = [images]
    moments = collect_moments(network, batches, max_size=max_size)
    current = factorize(network, {**HARSH, "second": (name, high)}, moments)
    found = {}
    for reference in (None, network):
        seen = collect_moments(
            current, batches, max_size=max_size, reference=reference, layers=["second"]
        )
        cut = factorize(current, {"second": (name, low)}, seen)
        assert dict(leaves(cut))["second"].ranks == low
        found[reference is not None] = error(cut, network, images)
    assert found[True] < found[False]


@pytest.mark.parametrize("name", SECOND)
def test_without_a_loss_nothing_is_to_make_up_for(network, images, name):
    """Where both see the same, the cross moments are the moments."""
    high, low = SECOND[name]
    current = factorize(network, {"second": (name, high)})
    cuts = [
        factorize(
            current,
            {"second": (name, low)},
            collect_moments(current, [images], reference=reference, layers=["second"]),
        )
        for reference in (None, current)
    ]
    outputs = [np.array(cut(images)) for cut in cuts]
    np.testing.assert_allclose(*outputs, atol=1e-3 * np.abs(outputs[0]).max())


def test_front_to_back_over_layers_factorized_before(network, images):
    first = {"first": ("ChannelSVDConv2D", (6,)), "second": ("Tucker2Conv2D", (12, 16))}
    current = factorize_on_data(network, first, [images], asymmetric=True)
    choices = {"first": ("ChannelSVDConv2D", (3,)), "second": ("Tucker2Conv2D", (6, 8))}
    found = [
        error(
            factorize_on_data(current, choices, [images], asymmetric=asymmetric),
            current,
            images,
        )
        for asymmetric in (False, True)
    ]
    assert found[1] < found[0]
