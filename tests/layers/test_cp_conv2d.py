"""CPConv2D against the Conv2D layer it replaces."""

import conformance as c
import keras
import numpy as np
import pytest
from conformance_conv2d import Conv2DTypeTests, built

from tfcompress.cost import layer_specs
from tfcompress.deploy import TFLiteModel, export_tflite
from tfcompress.deploy.flatbuffer import read_ops
from tfcompress.errors import DegenerateError
from tfcompress.layers import CPConv2D, registry
from tfcompress.linalg import Moments, cp, cp_to_tensor, degeneracy
from tfcompress.ranks import VBMF, Budget, Energy, Ratio
from tfcompress.surgery import factorize

L = keras.layers


class TestCPConv2D(Conv2DTypeTests):
    cls = CPConv2D
    low = (8,)
    cut = (3,)
    bad_ranks = (0, 25, (2, 2), (), 1.5)
    unsupported = (
        (built(4, 1), "1x1 convolution"),
        (built(4, 3, strides=(1, 2)), "strides differ by axis"),
    )


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def with_terms(rank, channels=16, filters=24, **options):
    """A 3x3 convolution whose kernel is a sum of so many terms."""
    layer = built(filters, 3, channels, **options)
    terms = [normal((n, rank), i) for i, n in enumerate((9, channels, filters))]
    tensor = cp_to_tensor(*terms) / np.sqrt(9 * channels * rank)
    layer.kernel.assign(tensor.reshape(3, 3, channels, filters))
    return layer


def border(channels=16, filters=24):
    """A kernel of border rank 2: no best approximation by two terms."""
    sizes = (9, channels, filters)
    pairs = [np.linalg.qr(normal((n, 2), i))[0].T for i, n in enumerate(sizes)]
    chosen = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    terms = [
        np.einsum(
            "s,i,o->sio", *(pair[k] for pair, k in zip(pairs, which, strict=True))
        )
        for which in chosen
    ]
    layer = built(filters, 3, channels, name="border")
    layer.kernel.assign(sum(terms).reshape(3, 3, channels, filters))
    return layer


def test_planted_terms_are_recovered():
    layer = with_terms(10, strides=2, padding="same", activation="relu")
    low = CPConv2D.from_layer(layer, 10)
    assert low.count_params() == 10 * (16 + 9 + 24) + 24
    np.testing.assert_allclose(low.kernel(), layer.kernel, atol=2e-4)
    x = c.normal((2, 9, 8, 16))
    assert c.relative_error(low(x), layer(x)) < 1e-3


def test_channels_of_the_factors_have_one_scale():
    low = CPConv2D.from_layer(built(24, 3, 16), 20)
    u, d, v = (np.array(low.factors()[name]) for name in ("u", "d", "v"))
    sizes = [
        np.sqrt(np.mean(np.square(u), axis=(0, 1, 2))),
        np.sqrt(np.mean(np.square(d), axis=(0, 1, 3))),
        np.sqrt(np.mean(np.square(v), axis=(0, 1, 3))),
    ]
    np.testing.assert_allclose(sizes[1], sizes[0], rtol=1e-4)
    np.testing.assert_allclose(sizes[2], sizes[0], rtol=1e-4)


def test_a_degenerate_kernel_is_told_and_tucker_offered():
    with pytest.raises(
        DegenerateError,
        match=r"Layer 'border': CP degenerates at rank 2 \(.*\): use Tucker2Conv2D.*"
        r"Received: a kernel of shape \(3, 3, 16, 24\)",
    ):
        CPConv2D.from_layer(border(), 2)
    tucker = registry.get("Tucker2Conv2D").from_layer(border(), (2, 2))
    np.testing.assert_allclose(tucker.kernel(), border().kernel, atol=1e-5)
    # Three terms are enough, and stable.
    three = CPConv2D.from_layer(border(), 3)
    np.testing.assert_allclose(three.kernel(), border().kernel, atol=1e-4)


def test_truncation_stays_stable_where_cp_degenerates():
    three = CPConv2D.from_layer(border(), 3)
    two = three.truncate(2)
    terms = [f.reshape(-1, 2) for f in (two.factors()["d"], two.factors()["u"])]
    terms.append(two.factors()["v"].reshape(2, -1).T)
    tensor = three.kernel().reshape(9, 16, 24)
    assert degeneracy(*terms, tensor) < 10.1
    assert np.linalg.norm(two.kernel() - three.kernel()) < 0.1 * np.linalg.norm(tensor)


@pytest.mark.parametrize("rank", [8, 24, 48])
def test_truncation_is_as_good_as_a_fresh_decomposition(rank):
    """Of a product that is not the decomposition's own: noise stands for training."""
    layer = CPConv2D.from_layer(built(32, 3, 32), 64)
    for seed, (name, factor) in enumerate(layer.factors().items()):
        noisy = factor * (1.0 + 0.2 * normal(factor.shape, seed))
        getattr(layer, name).assign(noisy)
    kernel = layer.kernel().reshape(9, 32, 32)
    cut = layer.truncate(rank).kernel().reshape(kernel.shape)
    error = np.linalg.norm(cut - kernel) / np.linalg.norm(kernel)
    assert error < 1.02 * cp(kernel, rank).error
    estimate = np.sqrt(layer.factor_errors([(rank,), (64,)]))
    # Short runs, and beyond the ranks that are swept an upper bound: too high rather
    # than too low. Where the sweeps end differs between processors.
    assert 0.9 * error < estimate[0] < 1.25 * error and estimate[1] == 0.0


def moments_of(layer, x):
    rows = CPConv2D.input_rows(layer, x, whole=True)
    rows = np.array(rows, np.float64)
    return Moments(rows.T @ rows / len(rows), rows.mean(axis=0), len(rows))


@pytest.mark.parametrize("use_bias", [True, False])
def test_statistics_lower_the_error_of_the_outputs(use_bias):
    layer = built(24, 3, 8, padding="same", use_bias=use_bias)
    mix = normal((8, 8)) * np.arange(1, 9) ** -1.0
    x = (np.abs(normal((16, 10, 10, 8), 1)) @ mix).astype("float32")
    moments = moments_of(layer, x)
    right = np.array(layer(x))

    def lost(low):
        return np.mean(np.square(np.array(low(x)) - right)) / np.var(right)

    plain = CPConv2D.from_layer(layer, 16)
    aware = CPConv2D.from_layer(layer, 16, moments)
    assert lost(aware) < 0.8 * lost(plain)
    if use_bias:
        places = (0, 1, 2)
        means = [np.mean(layer(x), axis=places) for layer in (aware, layer)]
        np.testing.assert_allclose(*means, atol=1e-3)
    cuts = [aware.truncate(8, moments), aware.truncate(8)]
    assert lost(cuts[0]) < 0.9 * lost(cuts[1])


def test_tflite_runs_the_depthwise_part_as_one(tmp_path):
    layer = built(8, 3, 6, padding="same", strides=2)
    low = CPConv2D.from_layer(layer, 10)
    model = c.single_layer_model(low, (8, 8, 6))
    path = export_tflite(model, tmp_path / "model.tflite")
    names = [op.name for op in read_ops(path.read_bytes())]
    assert names == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    x = c.normal((3, 8, 8, 6))
    assert c.relative_error(TFLiteModel(path).predict(x), model(x)) < 1e-5


def test_expansion_holds_a_depthwise_convolution():
    low = CPConv2D.from_layer(built(8, 3, 6, dilation_rate=2, name="conv"), 10)
    parts = low.expand()
    kinds = [type(part) for part in parts]
    assert kinds == [L.Conv2D, L.DepthwiseConv2D, L.Conv2D]
    assert [part.name for part in parts] == ["conv_u", "conv_d", "conv_v"]
    assert parts[1].dilation_rate == (2, 2)


@pytest.fixture(scope="module")
def model():
    image = keras.Input((10, 10, 16))
    conv = with_terms(40, name="conv")
    return keras.Model(image, L.Conv2D(8, 1, name="point")(conv(image)))


@pytest.mark.parametrize("make", [Ratio, Energy, VBMF])
@pytest.mark.parametrize("types", [None, {"*": "cheapest"}])
def test_no_selector_takes_it_unasked(model, make, types):
    options = {} if types is None else {"types": types}
    plan = make(**options).select(layer_specs(model), Budget(macs=0.9))
    taken = {row.layer_type for row in plan.rows if row.changed}
    assert taken and "CPConv2D" not in taken
    (conv,) = [spec for spec in layer_specs(model) if spec.name == "conv"]
    assert "CPConv2D" in conv.options and conv.options[0] != "CPConv2D"


def test_ratio_takes_it_where_asked(model):
    plan = Ratio(rate=4.0, types={"conv": "CPConv2D"}).select(layer_specs(model))
    row = {row.name: row for row in plan.rows}["conv"]
    assert row.layer_type == "CPConv2D"
    assert row.after.params == pytest.approx(row.before.params / 4, rel=0.15)
    again = factorize(model, plan.choices())
    further = Ratio(rate=2.0).select(layer_specs(again))
    row = {row.name: row for row in further.rows}["conv"]
    assert row.layer_type == "CPConv2D" and row.changed


@pytest.mark.parametrize("selector", [Energy(threshold=0.5), VBMF()])
def test_selectors_of_spectra_leave_it_alone(model, selector):
    asked = type(selector)(types={"conv": "CPConv2D"})
    row = {r.name: r for r in asked.select(layer_specs(model), Budget(macs=0.5)).rows}
    assert not row["conv"].changed
    assert "CPConv2D has no spectrum" in row["conv"].reason
    small = factorize(model, {"conv": ("CPConv2D", (20,))})
    row = {row.name: row for row in selector.select(layer_specs(small)).rows}["conv"]
    assert row.layer_type == "CPConv2D" and not row.changed
