"""Equalized channels: the same outputs, and less lost to int8."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.cost import layer_specs
from tfcompress.deploy import (
    CalibrationError,
    ExportError,
    export_tflite,
    layer_errors,
)
from tfcompress.models import resnet
from tfcompress.quantize import equalize
from tfcompress.ranks import Fixed
from tfcompress.surgery import factorize

L = keras.layers


def images(count=16, seed=0):
    return np.random.default_rng(seed).random((count, 8, 8, 3)).astype("float32")


def unbalanced(spread=3.0, seed=0):
    """Channels that differ by powers of ten, and the same outputs all the same."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, padding="same", name="one"),
            L.BatchNormalization(),
            L.ReLU(),
            L.DepthwiseConv2D(3, name="depthwise"),
            L.ReLU(),
            L.Conv2D(6, 1, name="two"),
            L.GlobalAveragePooling2D(),
            L.Dense(4, name="logits"),
        ]
    )
    scale = 10.0 ** np.random.default_rng(seed).uniform(-spread, spread, 8)
    one, depthwise = model.get_layer("one"), model.get_layer("depthwise")
    kernel, bias = one.get_weights()
    one.set_weights([kernel * scale, bias])
    kernel, bias = depthwise.get_weights()
    depthwise.set_weights([kernel / scale[:, None], bias])
    return model


def logit_error(model, tmp_path):
    path = export_tflite(
        model, tmp_path / "m", quantization="int8", calibration=images()
    )
    return layer_errors(path, model, images())[-1].relative


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 3.0), st.booleans())
def test_the_outputs_stay(seed, spread, data_free):
    model = unbalanced(spread, seed)
    before = model.get_weights()
    x = images(4, seed)
    new = equalize(model, None if data_free else [x])
    expected = np.asarray(model(x))
    assert np.abs(new(x) - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-3)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model, and what int8 loses of it as it is."""
    model = unbalanced(1.5)
    return model, logit_error(model, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("calibration", [None, images(), [images(8), images(8, 1)]])
def test_int8_loses_less_on_unbalanced_channels(plain, calibration, tmp_path):
    model, error = plain
    assert logit_error(equalize(model, calibration), tmp_path) < 0.3 * error


def test_files_that_fast_kernels_refuse_are_refused(tmp_path):
    """XNNPACK takes no scales that differ as much; without it the file would load."""
    with pytest.raises(ExportError, match="quantize.equalize"):
        logit_error(unbalanced(3.0), tmp_path)
    assert not list(tmp_path.iterdir())
    assert logit_error(equalize(unbalanced(3.0), images()), tmp_path) < 0.1


def test_factors_are_equalized_and_factorized_models_stay_the_same_function():
    model = resnet((8, 8, 3), 4, depth=8, width=16, seed=0)
    plan = Fixed(ranks={"*": 0.5}).select(layer_specs(model))
    small = factorize(model, plan.choices())
    new = equalize(small, images())
    np.testing.assert_allclose(new(images(4, 1)), small(images(4, 1)), atol=1e-4)
    # Of two factors, the largest weights by channel are those of the activations.
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(new.get_weights(), small.get_weights(), strict=False)
    )


def test_nothing_to_equalize_is_a_copy():
    model = keras.Sequential([keras.Input((5,)), L.Dense(3, activation="tanh")])
    x = np.ones((2, 5), "float32")
    np.testing.assert_array_equal(equalize(model)(x), model(x))


def test_no_batches():
    with pytest.raises(CalibrationError, match="no batches"):
        equalize(unbalanced(), [])
