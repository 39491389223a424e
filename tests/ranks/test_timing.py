"""Budgets of time, planned with a table whose times are made up, not measured."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.cost import layer_specs
from tfcompress.errors import BudgetError
from tfcompress.layers import registry
from tfcompress.ranks import Budget, Budgeted, Plan
from tfcompress.ranks.timing import Timing


class FakeTable:
    """A millisecond for each multiplication, or `per_mac` of a type, plus a fixed part.

    Times that were not asked for beforehand are refused: a table would measure them
    one by one.
    """

    num_threads = 2

    def __init__(self, per_mac=None, fixed=0.0):
        self.per_mac = per_mac or {}
        self.fixed = fixed
        self.sessions = []

    def measure(self, requests):
        self.sessions.append([(spec.name, *rest) for spec, *rest in requests])

    def of(self, spec, layer_type=None, ranks=None):
        assert any((spec.name, layer_type, ranks) in s for s in self.sessions)
        return self.time(spec, layer_type, ranks)

    def dense(self, spec):
        return float(spec.dense.macs)

    def time(self, spec, layer_type, ranks):
        if layer_type is None:
            return float(spec.cost.macs)
        macs = registry.get(layer_type).cost(spec, ranks).macs
        return self.fixed + macs * self.per_mac.get(layer_type, 1.0)


@pytest.fixture(scope="module")
def twins():
    """Two equal layers in a row: 4096 multiplications each."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, name="one"), layers.Dense(64, name="two")]
    )


def row_of(plan, name):
    return next(row for row in plan.rows if row.name == name)


def added_up(model, table, rest, choices=None):
    """Time of a model, added up by hand: as it is, or with some layers replaced."""
    choices = choices or {}
    return rest + sum(
        table.time(spec, *choices.get(spec.name, (None, None)))
        for spec in layer_specs(model)
        if spec.reason is None
    )


@pytest.mark.parametrize("rest", [0.0, 20_000.0])
@pytest.mark.parametrize("limit", [0.8, 0.6])
def test_a_budget_of_time_is_met_by_the_sum(network, limit, rest):
    table = FakeTable(fixed=500.0)
    selector = Budgeted(latency=table, rest_ms=rest)
    plan = selector.select(layer_specs(network), Budget(latency=limit))
    before = added_up(network, table, rest)
    after = added_up(network, table, rest, plan.choices())
    assert plan.met
    assert plan.latency.dense_ms == plan.latency.before_ms == pytest.approx(before)
    assert plan.latency.after_ms == pytest.approx(after)
    assert (plan.latency.rest_ms, plan.latency.num_threads) == (rest, 2)
    assert 0.85 * limit * before < after <= limit * before


def test_the_rest_must_be_made_up_for(twins):
    """What no layer accounts for stays: the layers have to save more."""
    specs, budget = layer_specs(twins), Budget(latency=0.7)
    plans = [
        Budgeted(latency=FakeTable(), rest_ms=rest).select(specs, budget)
        for rest in (0.0, 4000.0)
    ]
    assert all(plan.met for plan in plans)
    assert plans[1].after.macs < plans[0].after.macs


def test_a_rest_beyond_the_budget_cannot_be_met(twins):
    selector = Budgeted(latency=FakeTable(), rest_ms=100_000.0)
    plan = selector.select(layer_specs(twins), Budget(latency=0.5))
    smallest = Budgeted().select(layer_specs(twins), Budget(macs=1e-6))
    assert not plan.met
    assert plan.after == smallest.after
    assert plan.summary().endswith("NOT met")


def test_layers_that_are_kept_take_their_time(twins):
    selector = Budgeted(latency=FakeTable(), keep=("one",))
    plan = selector.select(layer_specs(twins), Budget(latency=0.75))
    assert plan.met
    assert not row_of(plan, "one").changed
    assert 4096.0 < plan.latency.after_ms <= 0.75 * 8192.0
    hard = selector.select(layer_specs(twins), Budget(latency=0.4))
    assert not hard.met


def test_what_is_no_faster_is_left_alone(network):
    """Few MACs do not help where the type is slow on the processor."""
    slow = FakeTable({"Tucker2Conv2D": 50.0, "SpatialSVDConv2D": 50.0})
    plan = Budgeted(latency=slow).select(layer_specs(network), Budget(latency=0.7))
    types = {row.layer_type for row in plan.rows if row.changed}
    assert types
    assert not types & {"Tucker2Conv2D", "SpatialSVDConv2D"}


@pytest.mark.parametrize(("fixed", "changes"), [(4096.0, False), (3000.0, True)])
def test_factors_have_to_be_faster_than_the_layer(twins, fixed, changes):
    """3000 ms for the second call leave 1096 for its multiplications: rank 8."""
    table = FakeTable(fixed=fixed)
    plan = Budgeted(latency=table).select(layer_specs(twins), Budget(latency=0.5))
    assert not plan.met
    for row in plan.rows:
        assert row.changed == changes
        assert not changes or row.ranks[0] <= 8
    if not changes:
        assert plan.latency.after_ms == plan.latency.dense_ms
        assert {row.reason for row in plan.rows} == {"no ranks make it smaller"}


def test_slower_factors_are_no_choice_even_where_time_is_left(twins):
    """Fewer MACs at no loss, and time enough: a budget of time is for faster layers."""

    class SlowTable(FakeTable):
        def time(self, spec, layer_type, ranks):
            slower = 100.0 if spec.name == "one" and layer_type else 0.0
            return slower + max(super().time(spec, layer_type, ranks), 4000.0)

    model = keras.models.clone_model(twins)
    column = np.linspace(1, 2, 64)[:, None]
    model.get_layer("one").kernel.assign(column @ column.T)
    specs = layer_specs(model)
    free = Budgeted().select(specs, Budget(macs=0.8))
    assert set(free.choices()) == {"one"}
    plan = Budgeted(latency=SlowTable()).select(specs, Budget(latency=1.0, macs=0.8))
    assert set(plan.choices()) == {"two"}
    assert plan.met


def test_ranks_asked_for_count_however_slow(twins):
    """They are taken as asked; the estimate tells what they take."""
    table = FakeTable(fixed=3000.0)
    selector = Budgeted(latency=table, ranks={"one": 16})
    plan = selector.select(layer_specs(twins), Budget(latency=0.9))
    assert row_of(plan, "one").ranks == (16,)
    assert row_of(plan, "two").changed
    slow = 3000.0 + 16 * 128
    assert slow > 4096.0
    assert plan.latency.after_ms == added_up(twins, table, 0.0, plan.choices())
    assert plan.latency.after_ms > slow
    assert not plan.met


def test_times_are_measured_in_one_session(network):
    """Times of one session compare best; of each type only some ranks are measured."""
    table = FakeTable()
    specs = layer_specs(network)
    Budgeted(latency=table).select(specs, Budget(latency=0.7))
    (session,) = table.sessions
    open_layers = {spec.name for spec in specs if spec.reason is None}
    assert {name for name, *_ in session} == open_layers
    assert "shared" in open_layers
    assert "inner/depthwise" not in open_layers
    for name in open_layers:
        types = [kind for path, kind, _ in session if path == name]
        assert types.count(None) == 1
        assert all(types.count(kind) <= 8 for kind in set(types))


def test_time_and_macs_together(network):
    table = FakeTable(fixed=500.0)
    plan = Budgeted(latency=table).select(
        layer_specs(network), Budget(latency=0.8, macs=0.4)
    )
    assert plan.met
    assert plan.after.macs <= 0.4 * plan.dense.macs
    assert plan.latency.ratio <= 0.8


def test_a_model_that_is_factorized_already(network, factorized):
    """Budgets are fractions of the original's time, whatever was saved before."""
    table = FakeTable()
    plan = Budgeted(latency=table).select(layer_specs(factorized), Budget(latency=0.3))
    assert plan.met
    assert plan.latency.dense_ms == pytest.approx(added_up(network, table, 0.0))
    assert plan.latency.before_ms == pytest.approx(added_up(factorized, table, 0.0))
    assert plan.latency.before_ms < plan.latency.dense_ms
    enough = Budgeted(latency=FakeTable()).select(
        layer_specs(factorized),
        Budget(latency=plan.latency.before_ms / plan.latency.dense_ms),
    )
    assert enough.met
    assert not enough.choices()


def test_lookups_take_no_time_and_still_lose_weights():
    keras.utils.set_random_seed(0)
    words = layers.Embedding(200, 32, name="words")
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), words, layers.Dense(64, name="dense")]
    )
    specs = layer_specs(model)
    table = FakeTable()
    both = Budgeted(latency=table).select(specs, Budget(latency=0.9, params=0.5))
    assert both.met
    assert row_of(both, "words").changed
    assert {name for name, *_ in table.sessions[0]} == {"dense"}
    time = Budgeted(latency=FakeTable()).select(specs, Budget(latency=0.5))
    assert time.met
    assert not row_of(time, "words").changed


def test_plans_of_time_are_kept_as_data(network):
    plans = [
        Budgeted(latency=FakeTable(), rest_ms=5.0).select(
            layer_specs(network), Budget(latency=0.7)
        )
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    found = plans[0].to_dict()
    assert found["met"] is True
    assert found["latency"]["rest_ms"] == 5.0
    assert found["latency"]["after_ms"] <= 0.7 * found["latency"]["dense_ms"]
    assert Plan.from_json(plans[0].to_json()) == plans[0]


def test_nothing_open_is_timed_all_the_same(twins):
    selector = Budgeted(latency=FakeTable(), keep=("*",), rest_ms=8.0)
    plan = selector.select(layer_specs(twins), Budget(latency=0.9))
    assert not plan.met
    assert plan.latency.after_ms == plan.latency.dense_ms == 8200.0


def test_estimates_replace_what_changes(factorized):
    table = FakeTable()
    specs = [spec for spec in layer_specs(factorized) if spec.reason is None]
    timing = Timing.of_model(layer_specs(factorized), table, 10.0)
    assert set(timing.now) == set(timing.dense) == {spec.name for spec in specs}
    dense = 10.0 + sum(spec.dense.macs for spec in specs)
    now = 10.0 + sum(spec.cost.macs for spec in specs)
    same = timing.estimate({})
    assert (same.dense_ms, same.before_ms, same.after_ms) == (dense, now, now)
    cut = timing.estimate({"hidden": 1.0})
    assert cut.after_ms == now - timing.now["hidden"] + 1.0
    assert timing.estimate({}) == same


def test_time_without_a_table(network):
    with pytest.raises(BudgetError, match=r"LatencyTable\(\).*Received: latency=0.5"):
        Budgeted().select(layer_specs(network), Budget(latency=0.5))
