"""The sparsity at which a pruned file has a given size."""

import keras
import numpy as np
import pytest

from benchmarks.pruned_size import gzipped_size, sparsity_for_bytes
from tfcompress import models
from tfcompress.deploy import export_tflite


@pytest.fixture(scope="module")
def model():
    network = models.resnet((12, 12, 1), 4, depth=8, width=8, stem_strides=2, seed=1)
    random = np.random.default_rng(1)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([random.uniform(0.5, 1.5, shape) for shape in shapes])
    return network


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
