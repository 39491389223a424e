"""The table of errors by layer finds the layer that is at fault."""

import keras
import numpy as np
import pytest

from tfcompress.deploy import CalibrationError, export_tflite, layer_errors

L = keras.layers


def network(*, outlier=1.0):
    """Three convolutions; `outlier` spoils the ranges after the second one."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="one")(image)
    x = L.Conv2D(8, 3, padding="same", name="two")(x)
    x = L.BatchNormalization(name="two_bn")(x)
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="three")(x)
    model = keras.Model(image, L.Dense(4, name="logits")(L.Flatten()(x)))
    kernel, bias = model.get_layer("two").get_weights()
    # One channel so large that the others have no steps left.
    kernel[..., 0] *= outlier
    model.get_layer("two").set_weights([kernel, bias])
    return model


def images(count=16):
    return np.random.default_rng(0).random((count, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("quantization", ["int8", "16x8", "float32"])
def test_every_layer_is_there_once_and_in_order(quantization, tmp_path):
    model = network()
    path = export_tflite(
        model, tmp_path / "m", quantization=quantization, calibration=images()
    )
    errors = layer_errors(path, model, images())
    kernels = [e.layer for e in errors if e.op in ("CONV_2D", "FULLY_CONNECTED")]
    assert kernels[:3] == ["one", "two", "three"]
    assert errors[-1].layer == "logits" and errors[-1].dtype == "float32"
    worst = max(e.relative for e in errors)
    limits = {"int8": 0.05, "16x8": 0.01, "float32": 1e-6}
    assert worst <= limits[quantization]
    assert (worst > 0.0) == (quantization != "float32")


def test_the_layer_at_fault_adds_most(tmp_path):
    model = network(outlier=300.0)
    path = export_tflite(
        model, tmp_path / "m", quantization="int8", calibration=images()
    )
    errors = layer_errors(path, model, images())
    later = next(e for e in errors if e.layer == "three")
    assert later.relative > 3 * next(e for e in errors if e.layer == "one").relative
    assert later.to_dict()["added"] == later.relative - max(
        e.relative for e in errors if e.layer == "two"
    )


def test_inputs_that_do_not_fit(tmp_path):
    model = network()
    path = export_tflite(model, tmp_path / "m")
    with pytest.raises(CalibrationError, match="must have shape"):
        layer_errors(path, model, np.zeros((4, 5, 5, 3), "float32"))
