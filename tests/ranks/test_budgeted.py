"""Budgeted: one allocator for all layers."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfcompress.cost import layer_specs, model_cost
from tfcompress.errors import BudgetError, RankError
from tfcompress.ranks import Budget, Budgeted
from tfcompress.sensitivity import Curve
from tfcompress.statistics import collect_moments
from tfcompress.surgery import factorize


def curve(scale):
    """A network that loses `scale` times the error of the layer."""
    return Curve((0.02, 0.1, 0.3), (0.02 * scale, 0.1 * scale, 0.3 * scale))


def choice(plan, name):
    return next(row for row in plan.rows if row.name == name)


@pytest.fixture(scope="module")
def twins():
    """Two equal layers in a row."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,))]
        + [layers.Dense(64, activation="relu", name=name) for name in ("one", "two")]
        + [layers.Dense(10, name="logits")]
    )
    kernel = np.random.default_rng(0).normal(size=(64, 64)) * np.linspace(1, 0.05, 64)
    for name in ("one", "two"):
        model.get_layer(name).kernel.assign(kernel / 8)
    return model


@pytest.mark.parametrize("field", ["macs", "params", "bytes"])
@pytest.mark.parametrize("limit", [0.8, 0.5, 0.3])
def test_the_budget_is_met_and_used(network, field, limit):
    plan = Budgeted().select(layer_specs(network), Budget(**{field: limit}))
    assert plan.met
    used = getattr(plan.after, field) / getattr(plan.dense, field)
    assert 0.9 * limit < used <= limit
    assert model_cost(factorize(network, plan.choices())) == plan.after


def test_several_limits_at_once(network):
    budget = Budget(macs=0.6, params=0.4)
    plan = Budgeted().select(layer_specs(network), budget)
    assert plan.met
    assert plan.after.macs <= 0.6 * plan.dense.macs
    assert plan.after.params <= 0.4 * plan.dense.params


@given(
    widths=st.lists(st.integers(4, 80), min_size=1, max_size=4),
    limit=st.floats(0.2, 1.0),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_nothing_grows_and_budgets_are_honest(widths, limit, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((12,)), *(layers.Dense(width) for width in widths)]
    )
    specs = layer_specs(model)
    plan = Budgeted().select(specs, Budget(macs=limit))
    for row in plan.rows:
        if row.changed:
            assert row.after.macs < row.dense.macs
            assert row.after.params < row.dense.params
    assert plan.met == (plan.after.macs <= limit * plan.dense.macs)
    if not plan.met:
        # Out of reach: nothing smaller was left to take.
        smallest = Budgeted().select(specs, Budget(macs=1e-6))
        assert plan.after.macs == smallest.after.macs


def test_insensitive_layers_are_cut_harder(twins):
    specs = layer_specs(twins)
    x = np.random.default_rng(1).normal(size=(256, 64)).astype("float32")
    moments = collect_moments(twins, [x])["one"]
    scores = {
        "one": {"moments": moments, "sensitivity": curve(1.0)},
        "two": {"moments": moments, "sensitivity": curve(0.01)},
        "logits": {"sensitivity": curve(1.0)},
    }
    plan = Budgeted().select(specs, Budget(macs=0.6), scores)
    one, two = choice(plan, "one"), choice(plan, "two")
    assert plan.met
    assert two.changed
    assert two.after.macs < one.after.macs
    # And the other way round: the choice follows the scores, not the place.
    scores["one"], scores["two"] = scores["two"], scores["one"]
    turned = Budgeted().select(specs, Budget(macs=0.6), scores)
    assert choice(turned, "one").ranks == two.ranks
    assert choice(turned, "two").ranks == one.ranks


def test_expected_losses_are_noted(twins):
    scores = {name: {"sensitivity": curve(2.0)} for name in ("one", "two", "logits")}
    plan = Budgeted().select(layer_specs(twins), Budget(macs=0.5), scores)
    for row in plan.rows:
        if row.changed:
            assert row.notes["loss"] == pytest.approx(2.0 * row.notes["error"])
    again = json.loads(json.dumps(plan.to_dict()))
    assert again["met"] is True


def test_data_decide_what_an_error_is(twins):
    """Inputs of few directions: the same ranks lose next to nothing of the outputs."""
    rng = np.random.default_rng(0)
    narrow = (rng.normal(size=(256, 3)) @ rng.normal(size=(3, 64))).astype("float32")
    specs, budget = layer_specs(twins), Budget(macs=0.6)
    moments = collect_moments(twins, [narrow], layers=["one"])["one"]
    plain = Budgeted().select(specs, budget)
    aware = Budgeted().select(specs, budget, {"one": {"moments": moments}})
    ranks = choice(aware, "one").ranks
    assert ranks is not None
    assert ranks[0] <= 8
    assert choice(aware, "two").after.macs > choice(plain, "two").after.macs


@pytest.mark.parametrize(
    ("width", "step"), [(64, 8), (128, 8), (32, 4), (16, 4)], ids=str
)
def test_ranks_lie_on_a_grid(width, step):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((width,)), layers.Dense(width, name="layer")])
    specs = layer_specs(model)
    for limit in (0.9, 0.7, 0.5):
        (row,) = Budgeted().select(specs, Budget(macs=limit)).rows
        (rank,) = row.ranks
        # Below one step of the grid are halves of it.
        assert rank % step == 0 or rank in (step // 2, step // 4)


def test_keep_and_ranks_by_pattern(network):
    selector = Budgeted(keep=("stem",), ranks={"inner/*": 16, "hid*": 8})
    plan = selector.select(layer_specs(network), Budget(macs=0.6))
    stem, conv, hidden = (choice(plan, n) for n in ("stem", "inner/conv", "hidden"))
    assert not stem.changed
    assert stem.reason == "kept as asked"
    assert set(conv.ranks) == {16}
    assert hidden.ranks == (8,)
    assert plan.met


def test_ranks_that_a_layer_cannot_have(network):
    selector = Budgeted(ranks={"hidden": 4000})
    with pytest.raises(RankError, match=r"Layer 'hidden'.*at most 40.*Received: 4000"):
        selector.select(layer_specs(network), Budget(macs=0.5))


def test_a_pattern_that_matches_nothing(network):
    with pytest.raises(RankError, match="nowhere"):
        Budgeted(ranks={"nowhere*": 3}).select(layer_specs(network), Budget(macs=0.5))


def test_without_a_budget(network):
    with pytest.raises(RankError, match=r"Budget\(macs=0.5\)"):
        Budgeted().select(layer_specs(network))


def test_factorized_layers_are_cut_further(factorized):
    specs = layer_specs(factorized)
    before = {spec.name: spec.layer.ranks for spec in specs if spec.name == "hidden"}
    plan = Budgeted().select(specs, Budget(macs=0.25))
    assert plan.met
    assert choice(plan, "hidden").ranks[0] <= before["hidden"][0]
    assert model_cost(factorize(factorized, plan.choices())) == plan.after


def test_nothing_open_is_no_error(network):
    specs = layer_specs(network)
    plan = Budgeted(keep=("*",)).select(specs, Budget(macs=0.5))
    assert not plan.choices()
    assert not plan.met


def test_one_plan_for_the_same_network(network):
    plans = [
        Budgeted().select(layer_specs(network), Budget(macs=0.4)) for _ in range(2)
    ]
    assert plans[0] == plans[1]


class FakeTable:
    """Times in place of measured ones: `per_mac` of a type, plus a fixed part."""

    num_threads = 1

    def __init__(self, per_mac=None, fixed=0.0):
        self.per_mac = per_mac or {}
        self.fixed = fixed
        self.asked = []

    def measure(self, requests):
        self.asked += list(requests)

    def of(self, spec, layer_type=None, ranks=None):
        if layer_type is None:
            return spec.cost.macs * self.per_mac.get(None, 1.0)
        from tfcompress.layers import registry

        macs = registry.get(layer_type).cost(spec, ranks).macs
        return self.fixed + macs * self.per_mac.get(layer_type, 1.0)

    def dense(self, spec):
        return spec.dense.macs * self.per_mac.get(None, 1.0)


def timed(network, plan, table, rest):
    """Time of the network after a plan, added up by hand."""
    specs = {s.name: s for s in layer_specs(network) if s.reason is None}
    chosen = plan.choices()
    return rest + sum(
        table.of(spec, *chosen.get(name, (None, None))) for name, spec in specs.items()
    )


@pytest.mark.parametrize("rest", [0.0, 20_000.0])
@pytest.mark.parametrize("limit", [0.8, 0.6])
def test_a_budget_of_time_is_met_by_the_sum(network, limit, rest):
    table = FakeTable(fixed=500.0)
    selector = Budgeted(latency=table, rest_ms=rest)
    plan = selector.select(layer_specs(network), Budget(latency=limit))
    assert plan.met
    before = timed(
        network, Budgeted().select(layer_specs(network), Budget(macs=1.0)), table, rest
    )
    assert plan.latency.dense_ms == pytest.approx(before)
    after = timed(network, plan, table, rest)
    assert plan.latency.after_ms == pytest.approx(after)
    assert 0.85 * limit * before < after <= limit * before


def test_what_is_no_faster_is_left_alone(network):
    """Few MACs do not help where the type is slow on the processor."""
    slow = FakeTable({"Tucker2Conv2D": 50.0, "SpatialSVDConv2D": 50.0})
    selector = Budgeted(latency=slow)
    plan = selector.select(layer_specs(network), Budget(latency=0.7))
    types = {row.layer_type for row in plan.rows if row.changed}
    assert types
    assert not types & {"Tucker2Conv2D", "SpatialSVDConv2D"}


def test_times_are_asked_for_at_once(network):
    table = FakeTable()
    Budgeted(latency=table).select(layer_specs(network), Budget(latency=0.7))
    names = {spec.name for spec, *_ in table.asked}
    assert {"stem", "shared", "inner/conv", "point", "hidden"} <= names


def test_time_and_macs_together(network):
    table = FakeTable(fixed=500.0)
    plan = Budgeted(latency=table).select(
        layer_specs(network), Budget(latency=0.8, macs=0.4)
    )
    assert plan.met
    assert plan.after.macs <= 0.4 * plan.dense.macs


def test_time_without_a_table(network):
    with pytest.raises(BudgetError, match="LatencyTable"):
        Budgeted().select(layer_specs(network), Budget(latency=0.5))
