"""A vision transformer, from plan to file: every kind of its layers is factorized."""

import math

import conformance as c
import keras
import numpy as np
import pytest

from tfcompress.cost import layer_specs, model_cost
from tfcompress.deploy import TFLiteModel, export_tflite
from tfcompress.layers import FactorizedMultiHeadAttention
from tfcompress.models import vit
from tfcompress.ranks import VBMF, Budget, Energy, Ratio
from tfcompress.statistics import collect_moments
from tfcompress.surgery import expand, factorize

PARTS = ("query", "key", "value", "attention_output")


@pytest.fixture(scope="module")
def model():
    """Kernels of a few directions in noise, as trained ones have."""
    net = vit((16, 16, 3), 10, patch_size=2, dim=32, depth=2, heads=4)
    for index, weight in enumerate(net.weights):
        if weight.name not in ("kernel", "embeddings"):
            continue
        # Those of attention, with axes for the heads, are square.
        rows = 32 if len(weight.shape) == 3 else math.prod(weight.shape[:-1])
        columns = math.prod(weight.shape) // rows
        left, right = c.normal((rows, 4), index), c.normal((4, columns), 50 + index)
        noise = c.normal((rows, columns), 100 + index)
        matrix = (left @ right + 0.3 * noise) / np.sqrt(4 * rows)
        weight.assign(matrix.reshape(weight.shape))
    return net


@pytest.fixture(scope="module")
def plan(model):
    return Energy().select(layer_specs(model), Budget(params=0.5))


@pytest.fixture(scope="module")
def small(model, plan):
    return factorize(
        model, {r.name: (r.layer_type, r.ranks) for r in plan.rows if r.changed}
    )


def test_plan_shows_each_projection(model, plan):
    rows = {row.name: row for row in plan.rows}
    assert plan.met and plan.before == model_cost(model)
    for block in (1, 2):
        for part in PARTS:
            row = rows[f"block{block}_attention/{part}"]
            assert row.kind == "EinsumDense"
            assert row.layer_type == "FactorizedEinsumDense" and row.after < row.before
        scores = rows[f"block{block}_attention"]
        assert scores.before.macs == 2 * 64 * 64 * 32
        assert not scores.changed and "one by one" in scores.reason
    types = {row.layer_type for row in plan.rows if row.changed}
    assert {"FactorizedDense", "FactorizedEmbedding", "FactorizedEinsumDense"} <= types


def test_plan_prints_each_projection(model, tmp_path):
    from typer.testing import CliRunner

    from tfcompress.cli.main import app

    path = tmp_path / "vit.keras"
    model.save(path)
    result = CliRunner().invoke(app, ["plan", str(path), "--target-params", "0.5"])
    assert result.exit_code == 0, result.output
    for part in PARTS:
        assert f"block1_attention/{part}" in result.output


def test_half_the_params(model, plan, small):
    assert model_cost(small) == plan.after
    assert small.count_params() <= 0.5 * model.count_params()
    layer = small.get_layer("block1_attention")
    assert type(layer) is FactorizedMultiHeadAttention
    assert set(layer.ranks) == set(PARTS)


def test_saved_and_loaded(small, tmp_path):
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras", safe_mode=True)
    x = c.normal((3, 16, 16, 3))
    np.testing.assert_array_equal(loaded(x), small(x))


def test_exported(small, tmp_path):
    path = export_tflite(small, tmp_path / "small.tflite")
    x = c.normal((3, 16, 16, 3))
    assert c.relative_error(TFLiteModel(path).predict(x), small(x)) < 1e-4


def test_expanded(model, small):
    """Attention is dense again, the rest stays small."""
    stock = expand(small)
    x = c.normal((3, 16, 16, 3))
    assert c.relative_error(stock(x), small(x)) < 1e-4
    assert small.count_params() < stock.count_params() < model.count_params()
    assert not any(type(x).__module__.startswith("tfcompress") for x in stock.layers)


@pytest.mark.parametrize(
    "selector",
    [Ratio(rate=2.0), VBMF(weakening=0.9, min_rank=2)],
    ids=["ratio", "vbmf"],
)
def test_other_selectors(model, small, selector):
    """Also in a later round, on what is factorized already."""
    for net in (model, small):
        plan = selector.select(layer_specs(net))
        changed = {r.name: (r.layer_type, r.ranks) for r in plan.rows if r.changed}
        assert any("attention/" in name for name in changed)
        assert model_cost(factorize(net, changed)) == plan.after


def test_factors_on_data(model, plan):
    """The moments of every projection are collected, and lower the error."""
    x = c.normal((64, 16, 16, 3)) + np.linspace(-1, 1, 16)[:, None].astype("float32")
    moments = collect_moments(model, [x])
    chosen = {r.name: (r.layer_type, r.ranks) for r in plan.rows if r.changed}
    assert set(chosen) - set(moments) == {"positions"}
    assert moments["block1_attention/query"].size == 32
    assert moments["block2_attention/attention_output"].size == 32
    right = model(x)
    plain, aware = (factorize(model, chosen, m) for m in (None, moments))
    errors = [np.mean(np.square(new(x) - right)) for new in (plain, aware)]
    assert errors[1] < 0.8 * errors[0]
