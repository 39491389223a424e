"""`quantize_auto` takes the first way that is good enough, judged on files."""

import keras
import numpy as np
import pytest

from tfcompress.deploy import (
    ExportError,
    evaluate_tflite,
    export_tflite,
    inspect_tflite,
    layer_errors,
)
from tfcompress.deploy.flatbuffer import float_ops, read_ops
from tfcompress.errors import OptionError
from tfcompress.models import vgg
from tfcompress.quantize import Training, auto, quantize_auto

L = keras.layers


@pytest.fixture(scope="module")
def model(by_labels):
    return by_labels(
        vgg((8, 8, 1), 10, width=8, blocks=2, hidden=16), epochs=8, learning_rate=3e-3
    )


def spoilt(model):
    """The same function, with channels that one int8 scale cannot serve."""
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    convs = [x for x in new.layers if isinstance(x, L.Conv2D)]
    first, second = convs[-2:]
    norms = [x for x in new.layers if isinstance(x, L.BatchNormalization)]
    between = norms[len(convs) - 2]
    scale = 10.0 ** np.linspace(-2.5, 2.5, first.filters)
    gamma, beta, mean, variance = between.get_weights()
    between.set_weights([gamma * scale, beta * scale, mean, variance])
    weights = second.get_weights()
    second.set_weights([weights[0] / scale[:, None], *weights[1:]])
    return new


def settings(digits):
    return {
        "calibration": digits.arrays("train")[0][:100],
        "validation": digits.batches("validation", 256),
    }


def test_int8_is_taken_where_it_is_good_enough(model, digits, tmp_path):
    path = tmp_path / "new" / "m.tflite"
    found = quantize_auto(model, path, **settings(digits), max_drop=0.02)
    assert found.met and found.chosen.method == "int8"
    assert [trial.method for trial in found.trials] == ["float32", "int8"]
    assert not float_ops(read_ops(path.read_bytes()))
    accuracy = evaluate_tflite(path, digits.batches("validation", 256))["accuracy"]
    assert accuracy == found.chosen.accuracy
    assert found.chosen.bytes == path.stat().st_size
    assert [p.name for p in path.parent.iterdir()] == ["m.tflite"]
    assert "int8" in found.table() and "<- chosen" in found.table()


def test_equalization_mends_what_it_can(model, digits, tmp_path):
    bad = spoilt(model)
    images, _ = digits.arrays("validation")
    np.testing.assert_allclose(bad(images), model(images), rtol=1e-3, atol=1e-3)
    path = tmp_path / "m.tflite"
    found = quantize_auto(bad, path, **settings(digits), max_drop=0.02)
    assert found.trials[1].method == "int8" and found.trials[1].drop > 0.02
    assert found.met and found.chosen.method == "int8, equalized"


def test_the_worst_layers_stay_in_float(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "equalize", lambda model, calibration: model)
    bad = spoilt(model)
    path = tmp_path / "m.tflite"
    found = quantize_auto(bad, path, **settings(digits), max_drop=0.02)
    assert found.met and "in float" in found.chosen.method
    assert found.chosen.float_layers and found.layers
    floats = {op.name for op in float_ops(read_ops(path.read_bytes()))}
    assert "CONV_2D" in floats
    assert "worst layers" in found.table()


def test_training_comes_before_float(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "equalize", lambda model, calibration: model)
    path = tmp_path / "m.tflite"
    found = quantize_auto(
        spoilt(model),
        path,
        **settings(digits),
        max_drop=0.0,
        train=digits.batches("train", 64, shuffle_seed=0, repeat=True),
        training=Training(epochs=1, steps_per_epoch=4),
    )
    methods = [trial.method for trial in found.trials]
    assert methods[:4] == ["float32", "int8", "int8, equalized", "quantization aware"]
    best = max(found.trials[1:], key=lambda trial: trial.accuracy)
    assert found.chosen.accuracy == best.accuracy
    trained = found.chosen.method == "quantization aware"
    said = inspect_tflite(path).metadata.get("trained")
    assert (said == "quantization aware") == trained


def test_layers_in_float_by_name(model, digits, tmp_path):
    images = digits.arrays("train")[0][:50]
    name = next(x.name for x in model.layers if isinstance(x, L.Conv2D))
    options = {"quantization": "int8", "calibration": images}
    path = export_tflite(model, tmp_path / "m", float_layers=(name,), **options)
    errors = {e.layer: e for e in layer_errors(path, model, images)}
    assert errors[name].dtype == "float32" and errors[name].relative < 1e-5
    floats = float_ops(read_ops(path.read_bytes()))
    assert [op.name for op in floats] == ["CONV_2D"]
    unknown = options | {"float_layers": ("nothing",)}
    with pytest.raises(ExportError, match="No layer 'nothing'"):
        export_tflite(model, tmp_path / "n", **unknown)
    with pytest.raises(ExportError, match="belong to an int8 file"):
        export_tflite(model, tmp_path / "n", float_layers=(name,))


def test_bad_options(model, digits, tmp_path):
    with pytest.raises(OptionError, match="max_drop"):
        quantize_auto(model, tmp_path / "m", **settings(digits), max_drop=2.0)
    with pytest.raises(ExportError, match="is a folder"):
        quantize_auto(model, tmp_path, **settings(digits))
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(ExportError, match="cannot be written"):
        quantize_auto(model, file / "m.tflite", **settings(digits))
    assert list(tmp_path.iterdir()) == [file]
