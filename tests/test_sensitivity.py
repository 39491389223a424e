"""What the network loses when one layer does."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress.distill import regression_divergence
from tfcompress.distill.divergence import output_divergence
from tfcompress.errors import TfcompressError
from tfcompress.layers import kernel_of, kernel_shape_of, registry
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


def test_a_curve_of_nothing_costs_nothing():
    np.testing.assert_array_equal(Curve((), ())([0.0, 0.5]), [0.0, 0.0])


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


def ranks_with(layer, error, moments):
    """The rank whose error a probe has had."""
    cls = registry.get("FactorizedDense")
    ranks = [(r,) for r in range(1, max(cls.max_ranks(kernel_shape_of(layer))) + 1)]
    errors = cls.errors(kernel_of(layer), ranks, cls.metric(layer, moments))
    place = int(np.argmin(np.abs(errors - error)))
    assert errors[place] == pytest.approx(error)
    return ranks[place]


def mean_divergence(right, now, batches):
    return np.mean([float(output_divergence(right(x), now(x))) for x in batches])


@pytest.mark.parametrize("aware", [False, True])
def test_losses_are_those_of_one_layer_factorized_alone(network, batches, aware):
    """By `factorize`: no probe leaves anything behind for the next one."""
    moments = collect_moments(network, batches) if aware else {}
    curves = measure_sensitivity(network, batches, moments=moments)
    for name, curve in curves.items():
        layer = network.get_layer(name)
        for error, loss in zip(curve.errors, curve.losses, strict=True):
            ranks = ranks_with(layer, error, moments.get(name))
            alone = factorize(network, {name: ("FactorizedDense", ranks)}, moments)
            assert loss == pytest.approx(
                mean_divergence(network, alone, batches), rel=1e-3, abs=1e-7
            )


def test_a_layer_that_loses_nothing_is_not_probed(network, batches):
    """Kernels of rank one and of zeros: no rank has an error to measure."""
    model = keras.models.clone_model(network)
    model.set_weights(network.get_weights())
    model.get_layer("strong").kernel.assign(
        np.outer(np.ones(24), np.linspace(0, 1, 24))
    )
    model.get_layer("weak").kernel.assign(np.zeros((24, 24)))
    assert set(measure_sensitivity(model, batches)) == {"logits"}
    assert measure_sensitivity(model, batches, probes=()) == {}


def test_divergences_that_are_not_zero_for_equal_outputs(network, batches):
    """A cross-entropy, say: only what a probe adds counts."""
    shifted = measure_sensitivity(
        network, batches, divergence=lambda old, new: 3.0 + output_divergence(old, new)
    )
    for name, curve in measure_sensitivity(network, batches).items():
        assert shifted[name].errors == curve.errors
        np.testing.assert_allclose(shifted[name].losses, curve.losses, atol=1e-6)


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
    layer = small.get_layer("strong")
    error, loss = curves["strong"].errors[-1], curves["strong"].losses[-1]
    every = [(r,) for r in range(1, 11)]
    errors = layer.factor_errors(every, layer.metric(layer, moments["strong"]))
    ranks = every[int(np.argmin(np.abs(errors - error)))]
    cut = factorize(small, {"strong": ("FactorizedDense", ranks)}, moments)
    assert loss == pytest.approx(mean_divergence(small, cut, batches), rel=1e-3)


def test_what_was_lost_already_is_not_counted_again(network, batches):
    """Against the network it came from: only what a probe adds."""
    small = factorize(network, {"strong": ("FactorizedDense", (10,))})
    lost = mean_divergence(network, small, batches)
    curves = measure_sensitivity(small, batches, reference=network)
    every = [(r,) for r in range(1, 11)]
    errors = small.get_layer("strong").factor_errors(every)
    curve = curves["strong"]
    added = []
    for error in curve.errors:
        ranks = every[int(np.argmin(np.abs(errors - error)))]
        cut = factorize(small, {"strong": ("FactorizedDense", ranks)})
        added.append(mean_divergence(network, cut, batches) - lost)
    assert added[-1] > 0.0
    np.testing.assert_allclose(
        curve.losses, np.maximum.accumulate(np.maximum(added, 0.0)), rtol=1e-3
    )


def test_progress_counts_the_layers(network, batches):
    calls = []
    measure_sensitivity(network, batches, progress=lambda *a: calls.append(a))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_batches_may_bring_labels_and_never_end(network, batches):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield batches[0], np.zeros(len(batches[0]))

    found = measure_sensitivity(network, endless(), steps=2)
    assert len(asked) == 2
    assert found == measure_sensitivity(network, [batches[0]] * 2)


def test_named_inputs_several_outputs_and_nested_models():
    keras.utils.set_random_seed(0)
    images, extra = (
        keras.Input((6, 6, 8), name="images"),
        keras.Input((4,), name="extra"),
    )
    inner = keras.Sequential(
        [keras.Input((6, 6, 8)), layers.Conv2D(12, 3, name="conv")], name="inner"
    )
    x = layers.GlobalAveragePooling2D()(inner(images))
    x = layers.Concatenate()([x, layers.Dense(8, name="side")(extra)])
    outputs = {"kind": layers.Dense(5, name="kind")(x), "size": layers.Dense(1)(x)}
    model = keras.Model({"images": images, "extra": extra}, outputs)
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.normal(size=(16, 6, 6, 8)).astype("float32"),
        "extra": rng.normal(size=(16, 4)).astype("float32"),
    }
    moments = collect_moments(model, [batch])
    curves = measure_sensitivity(model, [batch], moments=moments)
    assert {"inner/conv", "side", "kind"} <= set(curves)
    assert all(curves[name].losses[-1] > 0.0 for name in ("inner/conv", "side", "kind"))


def test_no_batches(network):
    with pytest.raises(TfcompressError, match="at least one batch"):
        measure_sensitivity(network, [])


def test_outputs_that_are_not_finite(network, batches):
    broken = batches[0].copy()
    broken[3, 4] = np.nan
    with pytest.raises(TfcompressError, match=r"not finite.*Received: .* nan"):
        measure_sensitivity(network, [batches[1], broken])


def test_batches_without_samples(batches):
    model = keras.Sequential([keras.Input((24,)), layers.Dense(5)])
    with pytest.raises(TfcompressError, match=r"hold no samples.*Received: .* nan"):
        measure_sensitivity(model, [batches[0], batches[1][:0]])
