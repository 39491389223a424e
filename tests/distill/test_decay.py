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
    "ChannelSVDConv2D": ("conv", (4,)),
    "SpatialSVDConv2D": ("conv", (5,)),
    "Tucker2Conv2D": ("conv", (3, 4)),
    "CPConv2D": ("conv", (6,)),
    "FactorizedDense": ("dense", (4,)),
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


def unit(direction):
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in direction.values()))
    return {key: value / norm for key, value in direction.items()}


def still(model, *, weight_decay):
    """A step of training without a gradient, at the peak of the learning rate."""
    trainer = Matching(model, model, divergence=lambda a, b: 0.0 * tf.reduce_sum(b))
    x = np.zeros((4, 6, 6, 5), "float32")
    fit(
        trainer,
        tf.data.Dataset.from_tensor_slices((x,)).batch(4),
        None,
        epochs=1,
        steps_per_epoch=1,
        learning_rate=1e-2,
        weight_decay=weight_decay,
        warmup_steps=0,
        jit_compile=False,
    )


@pytest.mark.parametrize("name", TYPES)
def test_a_step_follows_the_gradient_of_the_product(network, name):
    """Numeric derivatives of the energy of the kernel, in two random directions."""
    path, ranks = TYPES[name]
    model = factorize(network, {path: (name, ranks)})
    layer = dict(leaves(model))[path]
    old = layer.factors()
    rng = np.random.default_rng(0)
    numeric = []
    directions = [unit({k: rng.normal(size=old[k].shape) for k in old})]
    # Most of all matters what scales the factors themselves.
    directions += [unit({k: rng.normal(size=f.shape) + 3 * f for k, f in old.items()})]
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
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-3)


def test_at_full_rank_the_factors_get_the_gradient_that_the_kernel_gets(network):
    """Through the chain rule: decay of a dense kernel has the gradient `kernel`."""
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


def test_a_layer_in_two_places_decays_once(network):
    model = factorize(network, {"dense": ("FactorizedDense", (4,))})
    layer = dict(leaves(model))["dense"]
    twin = keras.Sequential([keras.Input((layer.u.shape[0],)), layer])
    inputs = [keras.Input((6, 6, 5)), keras.Input((layer.u.shape[0],))]
    both = keras.Model(inputs, [model(inputs[0]), twin(inputs[1])])
    assert ProductDecay(both, 0.1).layers == (layer,)


def test_the_teacher_does_not_decay(network):
    """Of a later round the teacher may be factorized itself."""
    choices = {"dense": ("FactorizedDense", (4,))}
    student, teacher = factorize(network, choices), factorize(network, choices)
    decay = ProductDecay(Matching(student, teacher), 0.1)
    assert decay.layers == (dict(leaves(student))["dense"],)


def test_no_decay_leaves_the_factors_to_nobody(network):
    model = factorize(network, {"dense": ("FactorizedDense", (4,))})
    before = [np.array(w) for w in model.trainable_weights]
    still(model, weight_decay=0.0)
    for old, now in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, now)


def test_in_training_factors_decay_by_their_product_and_the_rest_as_always(network):
    """Without a gradient what changes is decay alone."""
    model = factorize(network, {"dense": ("FactorizedDense", (4,))})
    decay = 0.1
    layer, plain = (dict(leaves(model))[n] for n in ("dense", "plain"))
    u, v, kernel = np.array(layer.u), np.array(layer.v), np.array(plain.kernel)
    norm = dict(leaves(model))["norm"]
    norm.gamma.assign(np.full(7, 2.0))
    layer.bias.assign(np.ones(8))
    still(model, weight_decay=decay)
    np.testing.assert_allclose(plain.kernel, kernel * (1 - decay), rtol=1e-3)
    np.testing.assert_allclose(layer.u, u - decay * u @ (v @ v.T), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(layer.v, v - decay * (u.T @ u) @ v, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(norm.gamma, np.full(7, 2.0))
    np.testing.assert_array_equal(layer.bias, np.ones(8))
