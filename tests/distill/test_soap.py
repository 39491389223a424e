"""SOAP against its definition in NumPy, and as a Keras optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.distill import SOAP
from tfcompress.errors import OptionError


class Reference:
    """Algorithm 3 of Vyas et al. 2024, kernel by kernel, in double precision."""

    def __init__(self, weight, *, rate, b1, b2, b3, eps, every):
        self.w = np.array(weight, np.float64)
        self.rate, self.b1, self.b2, self.b3 = rate, b1, b2, b3
        self.eps, self.every, self.step = eps, every, 0
        big = [i for i, n in enumerate(self.w.shape) if n > 1]
        self.axes = big if len(big) > 1 else []
        self.cov = {i: np.zeros((self.w.shape[i],) * 2) for i in self.axes}
        self.basis = {i: np.eye(self.w.shape[i]) for i in self.axes}
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)

    def rotate(self, x, back=False):
        for i in self.axes:
            q = self.basis[i] if back else self.basis[i].T
            x = np.moveaxis(np.tensordot(q, x, (1, i)), 0, i)
        return x

    def update(self, gradient):
        g = np.asarray(gradient, np.float64)
        count = self.step if self.axes else self.step + 1
        if count:
            self.m = self.b1 * self.m + (1 - self.b1) * g
            self.v = self.b2 * self.v + (1 - self.b2) * self.rotate(g) ** 2
            m = self.rotate(self.m / (1 - self.b1**count))
            v = np.sqrt(self.v / (1 - self.b2**count)) + self.eps
            self.w -= self.rate * self.rotate(m / v, back=True)
        for i in self.axes:
            flat = np.moveaxis(g, i, 0).reshape(g.shape[i], -1)
            self.cov[i] = self.b3 * self.cov[i] + (1 - self.b3) * flat @ flat.T
            if self.step % self.every == 0:
                turned = self.cov[i] @ self.basis[i]
                values = np.sum(self.basis[i] * turned, axis=0)
                order = np.argsort(-values, kind="stable")
                self.basis[i] = np.linalg.qr(turned[:, order])[0]
                self.v = np.take(self.v, order, axis=i)
        self.step += 1


@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 3, 2, 4), (1, 1, 4, 3), (1, 6)])
def test_steps_are_those_of_the_algorithm(shape):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape)
    options = {"beta_1": 0.9, "beta_2": 0.8, "shampoo_beta": 0.7, "update_every": 3}
    reference = Reference(start, rate=0.1, b1=0.9, b2=0.8, b3=0.7, eps=1e-8, every=3)
    variable = keras.Variable(start.astype("float32"))
    optimizer = SOAP(0.1, **options)
    for _ in range(12):
        gradient = rng.normal(size=shape).astype("float32")
        optimizer.apply([tf.constant(gradient)], [variable])
        reference.update(gradient)
        np.testing.assert_allclose(variable, reference.w, atol=2e-3)


def test_vectors_and_long_axes_are_left_to_adam():
    rng = np.random.default_rng(1)
    start = [rng.normal(size=s).astype("float32") for s in ((6,), (5, 4))]
    results = []
    for optimizer in (
        SOAP(0.1, beta_1=0.9, beta_2=0.99, max_axis=3),
        keras.optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-8),
    ):
        variables = [keras.Variable(x) for x in start]
        draw = np.random.default_rng(2)
        for _ in range(5):
            gradients = [draw.normal(size=x.shape).astype("float32") for x in start]
            optimizer.apply([tf.constant(g) for g in gradients], variables)
        results.append([np.array(v) for v in variables])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def whole_batches(digits):
    """A smaller last batch would be traced, and compiled, on its own."""
    return [part[:1408] for part in digits["train"]]


def train(optimizer, digits, *, jit_compile=False, epochs=6):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    data = whole_batches(digits)
    history = model.fit(*data, batch_size=64, epochs=epochs, verbose=0)
    return model, history.history["loss"]


def test_it_trains_with_decay_clipping_schedule_and_xla(digits):
    schedule = keras.optimizers.schedules.CosineDecay(1.5e-2, 132)
    options = {"weight_decay": 0.01, "global_clipnorm": 1.0}
    losses = {}
    for jit in (False, True):
        _, losses[jit] = train(SOAP(schedule, **options), digits, jit_compile=jit)
        assert losses[jit][-1] < 0.35 * losses[jit][0]
    np.testing.assert_allclose(losses[False], losses[True], rtol=0.1)


def test_it_goes_on_where_it_was(digits, tmp_path):
    model, _ = train(SOAP(1e-2), digits, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, SOAP)
    for one in (model, loaded):
        data = whole_batches(digits)
        one.fit(*data, batch_size=64, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"beta_1": 1.0}, r"beta_1 must lie in \[0, 1\)"),
        ({"shampoo_beta": -0.1}, "shampoo_beta"),
        ({"update_every": 0}, "must be positive"),
    ],
)
def test_bad_options(options, reason):
    with pytest.raises(OptionError, match=reason):
        SOAP(**options)
