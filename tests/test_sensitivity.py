"""What the network loses when one layer does."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress.distill import regression_divergence
from tfcompress.errors import TfcompressError
from tfcompress.sensitivity import Curve, measure_sensitivity
from tfcompress.statistics import collect_moments
from tfcompress.surgery import factorize


@given(
    losses=st.lists(st.floats(0, 10), min_size=1, max_size=4),
    errors=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_curves_rise_and_go_through_their_probes(losses, errors):
    points = tuple(0.1 * (i + 1) for i in range(len(losses)))
    rising = tuple(np.maximum.accumulate(losses))
    curve = Curve(points, rising)
    np.testing.assert_allclose(curve(points), rising, atol=1e-9)
    assert curve(0.0) == 0.0
    found = curve(np.sort(errors))
    assert np.all(np.diff(found) >= -1e-9)


def test_curves_go_on_beyond_the_last_probe():
    curve = Curve((0.1, 0.2), (1.0, 3.0))
    assert curve(0.05) == pytest.approx(0.5)
    assert curve(0.3) == pytest.approx(5.0)


def test_curves_are_plain_data():
    curve = Curve((0.1, 0.2), (1.0, 3.0))
    again = Curve(**{k: tuple(v) for k, v in curve.to_dict().items()})
    assert again == curve


@pytest.fixture(scope="module")
def network():
    """Two equal branches; what one gives is scaled to next to nothing."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((24,))
    strong = layers.Dense(24, name="strong")(inputs)
    weak = layers.Dense(24, name="weak")(inputs)
    x = layers.Add()([strong, layers.Rescaling(0.02, name="scale")(weak)])
    return keras.Model(inputs, layers.Dense(5, name="logits")(layers.ReLU()(x)))


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(64, 24)).astype("float32") for _ in range(2)]


@pytest.mark.parametrize("aware", [False, True])
def test_what_hardly_counts_is_insensitive(network, batches, aware):
    moments = collect_moments(network, batches) if aware else None
    curves = measure_sensitivity(network, batches, moments=moments)
    assert set(curves) == {"strong", "weak", "logits"}
    for error in (0.02, 0.1, 0.3):
        assert curves["weak"](error) < 0.05 * curves["strong"](error)
    assert curves["strong"](0.3) > curves["strong"](0.02) > 0


def test_probes_aim_at_the_errors_asked_for(network, batches):
    curves = measure_sensitivity(network, batches, probes=(0.1, 0.4))
    errors = curves["strong"].errors
    assert len(errors) == 2
    assert errors == pytest.approx((0.1, 0.4), rel=0.5)


def test_any_divergence(network, batches):
    kl = measure_sensitivity(network, batches)["strong"]
    mse = measure_sensitivity(network, batches, divergence=regression_divergence)
    assert mse["strong"].errors == kl.errors
    assert mse["strong"].losses != kl.losses


def test_the_model_is_left_alone_and_the_result_is_repeated(network, batches):
    before = [np.array(w) for w in network.weights]
    first, second = (measure_sensitivity(network, batches) for _ in range(2))
    assert first == second
    for old, now in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, now)


def test_factorized_layers_are_probed_from_where_they_are(network, batches):
    small = factorize(network, {"strong": ("FactorizedDense", (10,))})
    moments = collect_moments(small, batches)
    curves = measure_sensitivity(small, batches, moments=moments)
    assert set(curves) == {"strong", "weak", "logits"}
    assert curves["strong"](0.0) == 0.0
    # Against the network it came from, what was lost already is not counted again.
    against = measure_sensitivity(small, batches, moments=moments, reference=network)
    assert against["strong"].losses[0] >= 0.0


def test_progress_counts_the_layers(network, batches):
    calls = []
    measure_sensitivity(network, batches, progress=lambda *a: calls.append(a))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_batches(network):
    with pytest.raises(TfcompressError, match="at least one batch"):
        measure_sensitivity(network, [])
