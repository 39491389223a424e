"""The bridge to tfmot: same function there, zeros and small files back here."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.tfmot_pruning import (
    gzipped_size,
    prune_with_tfmot,
    sparsity_for_bytes,
    to_tf_keras,
)
from tfcompress import models
from tfcompress.deploy import export_tflite
from tfcompress.distill import ViewSpec
from tfcompress.errors import UnsupportedModelError

IMAGES = np.random.default_rng(0).random((16, 12, 12, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    network = models.resnet((12, 12, 1), 4, depth=8, width=8, stem_strides=2, seed=1)
    random = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([random.uniform(0.5, 1.5, shape) for shape in shapes])
    return network


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_the_legacy_network_is_the_same_function(name, model):
    if name == "vgg":
        model = models.vgg((12, 12, 1), 4, width=8, hidden=16)
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(to_tf_keras(model)(IMAGES), expected, atol=1e-5)


def test_pruning_gives_a_keras_3_model_with_the_zeros_asked_for(model):
    before = model.get_weights()
    labels = np.arange(16) % 4
    train = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(8).repeat()
    pruned = prune_with_tfmot(
        model,
        train,
        sparsity=0.75,
        epochs=2,
        steps_per_epoch=20,
        learning_rate=1e-3,
        views=ViewSpec(mode="consistent", crop="mild", flip=True),
    )
    assert isinstance(pruned, keras.Model)
    for layer in pruned.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            assert np.mean(kernel == 0.0) == pytest.approx(0.75, abs=1 / kernel.size)
            assert not np.any(np.signbit(kernel) & (kernel == 0.0))
            assert not np.array_equal(kernel, model.get_layer(layer.name).kernel)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    # The toolkit must not turn the process to the legacy Keras.
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.version().startswith("3.")


def test_the_sparsity_brings_the_file_to_the_size(model, tmp_path):
    content = export_tflite(model, tmp_path / "dense.tflite").read_bytes()
    target = gzipped_size(content) // 2
    sparsity = sparsity_for_bytes(model, content, target)
    pruned = keras.models.clone_model(model)
    pruned.set_weights(model.get_weights())
    for layer in pruned.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            limit = np.quantile(np.abs(kernel), sparsity)
            layer.kernel.assign(np.where(np.abs(kernel) > limit, kernel, 0.0))
    file = export_tflite(pruned, tmp_path / "pruned.tflite").read_bytes()
    assert gzipped_size(file) == pytest.approx(target, rel=0.02)
    with pytest.raises(ValueError, match="Received: target="):
        sparsity_for_bytes(model, content, 2 * len(content))


def test_a_layer_that_tf_keras_lacks_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.RMSNormalization()])
    with pytest.raises(UnsupportedModelError, match="cannot be rebuilt in tf_keras"):
        to_tf_keras(model)
