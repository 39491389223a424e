"""The bridge to tf_keras: the same function there, and the process as it was."""

import functools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress import models
from tfcompress.cost import layer_specs
from tfcompress.deploy import TFLiteModel, export_tflite
from tfcompress.errors import UnsupportedModelError
from tfcompress.quantize.legacy import carry_back, to_legacy, toolkit
from tfcompress.ranks import Fixed
from tfcompress.surgery import factorize
from tfcompress.surgery.fold import fold_batch_norm

L = keras.layers


def shaken(model, seed=1):
    """Batch norm that is not the identity."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights(
                [random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
    return model


def nested():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization()],
        name="inner",
    )
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(3, 3, padding="same", name="conv")(image)
    x = (
        inner(L.ReLU()(x) * 2.0)
        + keras.ops.mean(x, axis=(1, 2), keepdims=True)[..., :1]
    )
    return keras.Model(image, L.Dense(4)(L.Flatten()(x)))


def shared():
    dense = L.Dense(5, name="shared")
    x = keras.Input((5,), name="x")
    return keras.Model(x, L.Add()([dense(x), dense(dense(x))]))


def several():
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = L.Flatten()(L.DepthwiseConv2D(3, depth_multiplier=2)(image))
    joined = L.Concatenate()([L.Rescaling(0.5)(x), extra])
    outputs = {"b": L.Dense(3, name="b")(joined), "a": L.Dense(2, name="a")(joined)}
    return keras.Model({"image": image, "extra": extra}, outputs)


def factorized():
    model = models.resnet((8, 8, 1), 4, depth=8, width=16, seed=0)
    plan = Fixed(ranks={"*": 0.5}).select(layer_specs(model))
    return factorize(model, plan.choices())


@functools.cache
def built(name):
    """One of the models below; never changed."""
    return shaken(BUILDERS[name]())


BUILDERS = {
    "nested": nested,
    "shared": shared,
    "several": several,
    "factorized": factorized,
    "resnet": lambda: models.resnet((8, 8, 1), 4, depth=8, width=8, seed=0),
    "vgg": lambda: models.vgg((12, 12, 1), 4, width=8, blocks=2, hidden=16),
    "vit": lambda: models.vit((8, 8, 1), 4, depth=1, dim=16, heads=2, patch_size=4),
}


def feeds(model, seed=0):
    random = np.random.default_rng(seed)
    return keras.tree.map_structure(
        lambda t: random.normal(size=(3, *t.shape[1:])).astype("float32"), model.input
    )


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_the_twin_is_the_same_function(name, fold):
    model = built(name)
    before = model.get_weights()
    inputs = feeds(model)
    legacy = to_legacy(model, fold=fold)
    found = tf.nest.flatten(legacy.model(keras.tree.flatten(inputs)))
    expected = keras.tree.flatten(model(inputs, training=False))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    back = carry_back(legacy, legacy.model)
    again = keras.tree.flatten(back(inputs, training=False))
    for a, b in zip(expected, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_what_tfmot_does_not_know_is_listed():
    kept = to_legacy(several()).kept
    assert kept == {"rescaling": "tfmot does not know Rescaling"} or len(kept) == 1
    assert "tfmot does not know Rescaling" in kept.values()
    assert to_legacy(built("resnet")).kept == {}


class Own(L.Layer):
    """A layer of the user's, with a weight and a training mode."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x, training=False):
        return x * self.scale + (100.0 if training else 0.0)


def test_layers_of_ones_own_are_called_as_they_are():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4), Own(name="own")])
    legacy = to_legacy(model)
    assert legacy.kept == {"own": "not a stock layer of Keras"}
    x = np.ones((2, 5), "float32")
    np.testing.assert_allclose(legacy.model(x, training=True), model(x), atol=1e-6)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_subclassed_models_are_refused_in_one_line():
    model = Subclassed()
    model(np.ones((1, 2)))
    with pytest.raises(UnsupportedModelError, match="functional or sequential") as e:
        to_legacy(model)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["resnet", "nested", "factorized"])
def test_folding_keeps_the_outputs_and_leaves_no_batch_norm(name):
    from tfcompress.surgery import expand

    model = expand(built(name))
    folded = fold_batch_norm(model)
    inputs = feeds(model)
    np.testing.assert_allclose(
        folded(inputs, training=False), model(inputs, training=False), atol=1e-4
    )
    norms = [x for x in folded._flatten_layers() if type(x) is L.BatchNormalization]
    assert not norms and folded.count_params() < model.count_params()


def test_batch_norm_that_cannot_be_folded_stays():
    image = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="first")(image)
    y = L.Conv2D(4, 3, activation="relu")(x)
    y = L.BatchNormalization(name="after_relu")(y)
    z = L.Conv2D(4, 3, name="read_twice")(y)
    z = L.Add()([L.BatchNormalization(name="second")(z), z])
    model = shaken(keras.Model(image, z))
    folded = fold_batch_norm(model)
    names = {x.name for x in folded.layers if type(x) is L.BatchNormalization}
    assert names == {"first", "after_relu", "second"}
    inputs = feeds(model)
    np.testing.assert_allclose(folded(inputs), model(inputs), atol=1e-5)


def test_the_process_is_as_it_was(tmp_path):
    """After tfmot: Keras 3 converts and trains, and `tf.keras` is still Keras 3."""
    toolkit()
    to_legacy(nested())
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.version().startswith("3.")
    assert tf.keras.layers.Dense is keras.layers.Dense
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(4),
        ]
    )
    model.compile("adam", "mse")
    x = np.ones((4, 8, 8, 1), "float32")
    model.fit(x, np.ones((4, 4)), epochs=1, verbose=0)
    file = TFLiteModel(export_tflite(model, tmp_path / "m.tflite"))
    np.testing.assert_allclose(file.predict(x), model(x), atol=1e-5)
