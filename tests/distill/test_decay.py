"""Weight decay of the product of factors (Khodak et al. 2021)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfcompress.distill import Matching, fit
from tfcompress.distill.decay import ProductDecay
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

TYPES = {
    "ChannelSVDConv2D": (4,),
    "SpatialSVDConv2D": (5,),
    "Tucker2Conv2D": (3, 4),
    "CPConv2D": (6,),
}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 5)),
            layers.Conv2D(7, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(8, name="dense"),
            layers.Dense(3, name="plain"),
        ]
    )


def energy(layer):
    return np.sum(np.square(layer.kernel(), dtype=np.float64)) / 2.0


@pytest.mark.parametrize("name", TYPES)
def test_a_step_follows_the_gradient_of_the_product(network, name):
    """Numeric derivatives of the energy of the kernel, in a few random directions."""
    model = factorize(network, {"conv": (name, TYPES[name])})
    layer = dict(leaves(model))["conv"]
    old = layer.factors()
    rng = np.random.default_rng(0)
    numeric = []
    directions = [
        {key: rng.normal(size=value.shape) for key, value in old.items()}
        for _ in range(4)
    ]
    for direction in directions:
        values = []
        for sign in (1e-2, -1e-2):
            layer.assign_factors({k: old[k] + sign * direction[k] for k in old})
            values.append(energy(layer))
        numeric.append((values[0] - values[1]) / 2e-2)
    layer.assign_factors(old)
    ProductDecay(model, 0.5).apply(tf.constant(1e-2))
    step = {k: (old[k] - v) / (0.5 * 1e-2) for k, v in layer.factors().items()}
    for expected, direction in zip(numeric, directions, strict=True):
        found = sum(np.sum(step[k] * direction[k]) for k in step)
        assert found == pytest.approx(expected, rel=2e-2, abs=2e-2)


def test_at_full_rank_the_product_decays_as_the_kernel_does(network):
    """To first order: a balanced pair shrinks the kernel by twice the small step."""
    model = factorize(network, {"dense": ("FactorizedDense", (8,))})
    layer = dict(leaves(model))["dense"]
    before = layer.kernel()
    ProductDecay(model, 1.0).apply(tf.constant(1e-4))
    change = before - layer.kernel()
    # d(uv) = -(u u' K + K v' v) * rate: along the kernel, never against it.
    u, v = (np.array(x, np.float64) for x in (layer.u, layer.v))
    expected = 1e-4 * (u @ u.T @ before + before @ v.T @ v)
    np.testing.assert_allclose(change, expected, atol=1e-6)
    assert np.sum(change * before) > 0


def test_only_trainable_factorized_layers_decay(network):
    model = factorize(
        network,
        {"conv": ("Tucker2Conv2D", (3, 4)), "dense": ("FactorizedDense", (4,))},
    )
    decay = ProductDecay(model, 0.1)
    assert len(decay.factors()) == 5
    dict(leaves(model))["conv"].trainable = False
    assert len(ProductDecay(model, 0.1).factors()) == 2
    assert ProductDecay(network, 0.1).factors() == []


def test_in_training_factors_decay_by_their_product_and_the_rest_as_always(network):
    """Without a gradient what changes is decay alone."""
    model = factorize(network, {"dense": ("FactorizedDense", (4,))})
    rate, decay = 1e-2, 0.1
    layer, plain = (dict(leaves(model))[n] for n in ("dense", "plain"))
    u, v, kernel = np.array(layer.u), np.array(layer.v), np.array(plain.kernel)
    norm = dict(leaves(model))["norm"]
    norm.gamma.assign(np.full(7, 2.0))
    layer.bias.assign(np.ones(8))
    trainer = Matching(model, model, divergence=lambda a, b: 0.0 * tf.reduce_sum(b))
    x = np.zeros((4, 6, 6, 5), "float32")
    fit(
        trainer,
        tf.data.Dataset.from_tensor_slices((x,)).batch(4),
        None,
        epochs=1,
        steps_per_epoch=1,
        learning_rate=rate,
        weight_decay=decay,
        warmup_steps=0,
        jit_compile=False,
    )
    np.testing.assert_allclose(plain.kernel, kernel * (1 - decay), rtol=1e-3)
    np.testing.assert_allclose(layer.u, u - decay * u @ (v @ v.T), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(layer.v, v - decay * (u.T @ u) @ v, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(norm.gamma, np.full(7, 2.0))
    np.testing.assert_array_equal(layer.bias, np.ones(8))
