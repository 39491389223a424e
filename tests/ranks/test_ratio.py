"""Ratio: one constant compression rate."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.cost import layer_specs, model_cost
from tfcompress.errors import RankError
from tfcompress.ranks import Budget, Ratio
from tfcompress.ranks.ratio import rank_for_rate, tucker2_ranks_for_rate
from tfcompress.surgery import factorize

sides = st.integers(1, 7)
channels = st.integers(1, 2048)
rates = st.floats(1.0, 100.0)


@given(sides, sides, channels, channels, rates)
def test_tucker_ranks_leave_exactly_the_rate(kh, kw, n_in, n_out, rate):
    count = kh * kw * n_in * n_out
    r_in, r_out = tucker2_ranks_for_rate((kh, kw, n_in, n_out), count, rate)
    left = n_in * r_in + kh * kw * r_in * r_out + r_out * n_out
    assert left == pytest.approx(count / rate, rel=1e-9)
    assert r_in > 0
    assert r_out / r_in == pytest.approx(max(0.8 * n_out / n_in, 1.0))


@given(channels, channels, rates)
def test_pair_rank_leaves_exactly_the_rate(n_in, n_out, rate):
    rank = rank_for_rate(n_in * n_out, n_in + n_out, rate)
    assert rank * (n_in + n_out) == pytest.approx(n_in * n_out / rate)


@pytest.fixture(scope="module")
def wide():
    """One convolution and one dense layer, so wide that rounding hardly counts."""
    inputs = keras.Input((6, 6, 128))
    x = keras.layers.Conv2D(160, 3, padding="same", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(200, name="dense")(x))


@pytest.mark.parametrize("rate", [1.5, 2.0, 4.0, 10.0])
def test_each_layer_shrinks_by_the_rate(wide, rate):
    plan = Ratio(rate=rate, round_to=1).select(layer_specs(wide))
    for row in plan.rows:
        if row.layer_type:
            assert row.before.params / row.after.params == pytest.approx(rate, rel=0.06)
            assert row.before.params / row.after.params >= 0.98 * rate


def test_passes_multiply(wide):
    once = Ratio(rate=2.0, round_to=1)
    first = factorize(wide, once.select(layer_specs(wide)).choices())
    twice = once.select(layer_specs(first))
    direct = Ratio(rate=4.0, round_to=1).select(layer_specs(wide))
    for two, one in zip(twice.rows, direct.rows, strict=True):
        if one.layer_type:
            assert two.ranks == pytest.approx(one.ranks, abs=2)
    assert model_cost(factorize(first, twice.choices())) == twice.after


def test_the_smallest_rate_for_a_budget(wide):
    plan = Ratio(round_to=1).select(layer_specs(wide), Budget(params=0.3))
    assert plan.met
    looser = Ratio(rate=3.2, round_to=1).select(layer_specs(wide))
    tighter = Ratio(rate=3.6, round_to=1).select(layer_specs(wide))
    assert tighter.after.params < plan.after.params < looser.after.params


@pytest.mark.parametrize("rate", [1.0, 1, 0.5, 0.0, -2.0, float("nan"), float("inf")])
def test_rates_out_of_range(rate):
    with pytest.raises(RankError, match="rate must be above 1. Received: rate="):
        Ratio(rate=rate)


def test_needs_a_rate_or_a_budget(wide):
    with pytest.raises(RankError, match="needs a rate or a budget"):
        Ratio().select(layer_specs(wide))
