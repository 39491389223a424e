"""Moments of what layers see, and factors made from them."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.errors import TfcompressError
from tfcompress.layers.conv import patches
from tfcompress.statistics import collect_moments, factorize_on_data
from tfcompress.surgery import factorize


def correlated(seed, shape, directions=3):
    """Images of few directions, not centred."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(directions, shape[-1]))
    x = rng.normal(size=(*shape[:-1], directions)) @ mix
    return (x + 0.1 * rng.normal(size=shape) + 0.3).astype("float32")


@pytest.fixture(scope="module")
def network():
    """A strided and a "valid" convolution, a nested model, a layer called twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4), name="image")
    x = layers.Conv2D(
        12, 3, strides=2, padding="same", activation="relu", name="strided"
    )(inputs)
    inner = keras.Sequential(
        [keras.Input((5, 5, 12)), layers.Conv2D(16, 3, name="valid")], name="inner"
    )
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(inner(x)))
    twice = layers.Dense(16, activation="relu", name="twice")
    x = twice(twice(x))
    model = keras.Model(inputs, layers.Dense(6, name="logits")(x))
    for layer in (model.get_layer("strided"), inner.get_layer("valid"), twice):
        layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape) * 0.2)
    return model


@pytest.fixture(scope="module")
def batches():
    return [correlated(seed, (32, 9, 9, 4)) for seed in range(3)]


def seen_by(model, name):
    """A model that gives the outputs of the layer of a name."""
    return keras.Model(model.inputs, model.get_layer(name).output)


def assert_moments_of(moments, rows):
    rows = np.asarray(rows, np.float64)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.second, rows.T @ rows / len(rows), atol=1e-4)


def test_moments_are_those_of_the_patches(network, batches):
    found = collect_moments(network, batches)
    assert set(found) == {"strided", "inner/valid", "twice", "logits"}
    x = np.concatenate(batches)
    first = network.get_layer("strided")
    assert_moments_of(found["strided"], patches(x, first))
    middle = first(x)
    valid = network.get_layer("inner").get_layer("valid")
    assert_moments_of(found["inner/valid"], patches(middle, valid))
    pooled = np.maximum(valid(middle), 0).mean(axis=(1, 2))
    twice = network.get_layer("twice")
    assert_moments_of(found["twice"], np.concatenate([pooled, twice(pooled)]))
    assert_moments_of(found["logits"], twice(twice(pooled)))


def test_batches_may_bring_labels_and_end(network, batches):
    labelled = [(x, np.zeros(len(x))) for x in batches]
    plain = collect_moments(network, batches, steps=2)
    found = collect_moments(network, labelled, steps=2)
    few = collect_moments(network, batches[:2])
    for path in plain:
        np.testing.assert_array_equal(plain[path].second, found[path].second)
        # With more steps fewer rows are wanted of each; here all fit.
        np.testing.assert_allclose(plain[path].second, few[path].second)


def test_some_layers_only(network, batches):
    assert set(collect_moments(network, batches, layers=["twice"])) == {"twice"}


def test_long_patches_are_measured_by_channel(network, batches):
    found = collect_moments(network, batches, max_size=40)
    assert found["strided"].size == 36
    assert found["inner/valid"].size == 12
    middle = np.array(network.get_layer("strided")(np.concatenate(batches)))
    assert_moments_of(found["inner/valid"], middle.reshape(-1, 12))


def test_a_sample_stands_for_all_rows(network):
    """More places than are wanted: near the moments of all of them."""
    x = correlated(9, (600, 9, 9, 4))
    found = collect_moments(network, [x] * 4, layers=["strided"], steps=4)["strided"]
    assert found.count < 4 * 600 * 25
    rows = np.asarray(patches(x, network.get_layer("strided")), np.float64)
    right = rows.T @ rows / len(rows)
    assert np.linalg.norm(found.second - right) < 0.05 * np.linalg.norm(right)


CHOICES = {
    "strided": ("ChannelSVDConv2D", (6,)),
    "inner/valid": ("Tucker2Conv2D", (5, 6)),
    "twice": ("FactorizedDense", (5,)),
}


def error(model, network, batches):
    x = np.concatenate(batches)
    right = np.array(network(x))
    return np.mean(np.square(np.array(model(x)) - right)) / np.var(right)


def test_full_ranks_keep_the_output(network, batches):
    full = {
        "strided": ("ChannelSVDConv2D", (12,)),
        "inner/valid": ("Tucker2Conv2D", (12, 16)),
        "twice": ("FactorizedDense", (16,)),
    }
    for asymmetric in (False, True):
        model = factorize_on_data(network, full, batches, asymmetric=asymmetric)
        assert error(model, network, batches) < 1e-6


def test_data_aware_factors_lose_less_of_the_output(network, batches):
    plain = error(factorize(network, CHOICES), network, batches)
    aware = error(factorize_on_data(network, CHOICES, batches), network, batches)
    asymmetric = error(
        factorize_on_data(network, CHOICES, batches, asymmetric=True), network, batches
    )
    assert aware < 0.7 * plain
    # On a chain of layers it is better still: tests/layers/test_asymmetric.py.
    assert asymmetric < 0.8 * plain


def test_they_lose_less_on_data_not_seen_too(network, batches):
    new = [correlated(0, (32, 9, 9, 4)), correlated(1, (32, 9, 9, 4))]
    plain = error(factorize(network, CHOICES), network, new)
    aware = error(factorize_on_data(network, CHOICES, batches), network, new)
    assert aware < 0.9 * plain


def test_the_bias_takes_up_the_change_of_the_mean(network, batches):
    choices = {"strided": ("ChannelSVDConv2D", (2,))}
    model = factorize_on_data(network, choices, batches)
    x = np.concatenate(batches)

    def mean(model):
        layer = model.get_layer("strided")
        kernel = layer.kernel() if callable(layer.kernel) else np.array(layer.kernel)
        rows = np.asarray(patches(x, layer), np.float64)
        return rows.mean(axis=0) @ kernel.reshape(-1, 12) + np.array(layer.bias)

    np.testing.assert_allclose(mean(model), mean(network), atol=1e-4)


def test_the_model_is_left_alone_and_one_seed_gives_one_result(network, batches):
    before = [np.array(w) for w in network.weights]
    made = [
        factorize_on_data(network, CHOICES, batches, asymmetric=True) for _ in range(2)
    ]
    for old, now in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, now)
    for a, b in zip(made[0].weights, made[1].weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_neighbours_share_a_pass(network, batches):
    """Fewer passes than layers: all are factorized nevertheless."""
    for passes in (1, 2):
        model = factorize_on_data(
            network, CHOICES, batches, asymmetric=True, passes=passes
        )
        assert error(model, network, batches) < 1.0


def test_no_batches(network):
    with pytest.raises(TfcompressError, match="at least one batch"):
        collect_moments(network, [])


def test_data_that_are_not_finite(network, batches):
    with pytest.raises(TfcompressError, match="'strided' sees values that are not"):
        collect_moments(network, [batches[0] * np.nan])
