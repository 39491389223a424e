"""Budgets, plans, and the guards that every plan goes through."""

import dataclasses
import json
import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.cost import layer_specs, model_cost
from tfcompress.errors import BudgetError, RankError
from tfcompress.layers import registry
from tfcompress.ranks import (
    VBMF,
    Budget,
    Energy,
    Fixed,
    LatencyEstimate,
    LayerPlan,
    Plan,
    Ratio,
)
from tfcompress.ranks.base import Spectra
from tfcompress.spec import Cost

fractions = st.floats(1e-3, 1.0)


@pytest.mark.parametrize(
    "value", [0, 0.0, -0.1, 1.0001, 40, math.nan, math.inf, True, False, "0.4"]
)
@pytest.mark.parametrize("name", ["macs", "params", "bytes", "latency"])
def test_budget_refuses_what_is_no_fraction(name, value):
    with pytest.raises(BudgetError, match=rf"(?s)Budget {name}.*\(0, 1\].*Received"):
        Budget(**{name: value})


def test_budget_needs_a_limit():
    with pytest.raises(BudgetError, match="at least one limit"):
        Budget()


def test_budget_takes_its_bounds():
    assert Budget(macs=1).limits() == {"macs": 1}
    assert Budget(params=1e-9, bytes=1.0).limits() == {"params": 1e-9, "bytes": 1.0}
    assert Budget(macs=0.4, params=0.25).describe() == "params <= 25.0%, macs <= 40.0%"
    both = Budget(latency=0.5, macs=0.25)
    assert both.limits() == {"macs": 0.25, "latency": 0.5}
    assert Budget(latency=0.5).describe() == "latency <= 50.0%"


def test_budget_is_met_by_every_limit():
    dense = Cost(1000, 2000, 4000)
    budget = Budget(params=0.5, macs=0.25)
    assert budget.met(Cost(500, 500, 4000), dense)
    assert not budget.met(Cost(501, 500, 0), dense)
    assert not budget.met(Cost(500, 501, 0), dense)


def test_budget_leaves_latency_to_the_plan():
    dense = Cost(1000, 2000, 4000)
    assert Budget(latency=0.1).met(dense, dense)
    assert not Budget(latency=1.0, macs=0.5).met(dense, dense)


@given(fractions, fractions, st.floats(0.0, 1.0))
def test_toward_goes_in_equal_ratios(limit, now, share):
    dense = Cost(10**9, 10**9, 10**9)
    cost = Cost(0, round(now * 10**9), 0)
    stage = Budget(macs=limit).toward(cost, dense, share).macs
    start = max(cost.macs / dense.macs, limit)
    assert min(start, limit) * (1 - 1e-12) <= stage <= start * (1 + 1e-12)
    # The same share of the way on a scale of ratios.
    wanted = (1 - share) * math.log(start) + share * math.log(limit)
    assert math.log(stage) == pytest.approx(wanted, abs=1e-9)


@given(fractions, fractions, st.integers(1, 5))
def test_toward_arrives_after_its_rounds(limit, now, rounds):
    budget = Budget(macs=limit, params=limit)
    dense = Cost(10**9, 10**9, 10**9)
    cost = Cost(10**9, round(now * 10**9), 0)
    for done in range(rounds):
        stage = budget.toward(cost, dense, 1.0 / (rounds - done))
        cost = Cost(*(int(getattr(stage, n) * 10**9) for n in ("params", "macs")), 0)
    assert stage == budget


@given(fractions, fractions, st.integers(1, 5))
def test_toward_brings_latency_there_too(limit, now, rounds):
    budget = Budget(latency=limit, macs=0.5)
    cost = dense = Cost(10**9, 10**9, 10**9)
    for done in range(rounds):
        stage = budget.toward(cost, dense, 1.0 / (rounds - done), latency_now=now)
        assert limit * (1 - 1e-12) <= stage.latency <= max(now, limit) * (1 + 1e-12)
        cost, now = Cost(0, int(stage.macs * 10**9), 0), stage.latency
    assert stage == budget
    # Without saying so, a model takes its whole time.
    half = Budget(latency=0.25).toward(dense, dense, 0.5)
    assert half.latency == pytest.approx(0.5)


def test_totals_are_those_of_the_model(network, factorized):
    for model in (network, factorized):
        plan = Ratio(rate=2.0).select(layer_specs(model))
        assert plan.dense == model_cost(network)
        assert plan.before == model_cost(model)
        assert plan.after.macs < plan.before.macs


SELECTORS = [
    Fixed(ranks={"*": 0.5, "stem": None}),
    Ratio(),
    Energy(),
    VBMF(weakening=0.7, min_rank=2),
]


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("which", ["network", "factorized"])
def test_json_round_trip(selector, which, request):
    model = request.getfixturevalue(which)
    plan = selector.select(layer_specs(model), Budget(macs=0.5, params=0.9))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.choices() == plan.choices()
    assert again.scores() == plan.scores()
    assert json.loads(plan.to_json())["met"] is plan.met


def test_json_round_trip_without_budget(network):
    plan = Ratio(rate=3.0).select(layer_specs(network))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.met


def timed(plan, **times):
    """A plan with an estimate of time, as a selector that knows one makes it."""
    given = {"dense_ms": 8.0, "before_ms": 6.0, "after_ms": 3.0, "rest_ms": 0.5}
    return dataclasses.replace(
        plan,
        budget=Budget(macs=0.6, latency=0.5),
        latency=LatencyEstimate(**given | times, num_threads=2),
    )


def test_a_limit_of_latency_is_judged_by_the_estimate(network):
    specs = layer_specs(network)
    plan = Energy().select(specs, Budget(macs=0.5))
    assert timed(plan).met
    assert timed(plan, after_ms=4.0).met
    assert not timed(plan, after_ms=4.01).met
    # Fast, but over its MACs.
    assert not timed(Energy(threshold=0.999999).select(specs)).met
    # An estimate alone limits nothing.
    assert dataclasses.replace(timed(plan, after_ms=9.0), budget=None).met


def test_a_limit_of_latency_needs_an_estimate(network):
    plan = Energy().select(layer_specs(network), Budget(macs=0.5))
    plan = dataclasses.replace(plan, budget=Budget(latency=0.5))
    with pytest.raises(BudgetError, match="Energy cannot.*'budgeted'.*latency=0.5"):
        _ = plan.met


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: type(s).__name__)
def test_selectors_without_a_table_refuse_latency_at_once(selector, network):
    def unread(self, *args):
        raise AssertionError("a kernel was read before the budget was refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spectra, "of", unread)
        with pytest.raises(BudgetError, match="cannot plan for latency.*'budgeted'"):
            selector.select(layer_specs(network), Budget(macs=0.5, latency=0.5))


def test_latency_is_kept_and_shown(network):
    plan = timed(Energy().select(layer_specs(network), Budget(macs=0.5)))
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["latency"]["after_ms"] == 3.0
    shown = "latency: 8 -> 3 ms (37.5%, 2 threads); "
    assert shown in plan.summary()
    assert plan.summary().endswith("budget macs <= 60.0%, latency <= 50.0%: met")
    # A file from before there were estimates.
    old = {k: v for k, v in json.loads(plan.to_json()).items() if k != "latency"}
    old["budget"] = {"macs": 0.6}
    assert Plan.from_json(json.dumps(old)).latency is None


def test_table_has_every_layer_once(network):
    specs = layer_specs(network)
    plan = Energy().select(specs, Budget(macs=0.4))
    assert [row.name for row in plan.rows] == [spec.name for spec in specs]
    lines = plan.table(every=True).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [spec.name for spec in specs]
    brief = plan.table().splitlines()
    weighted = [spec.name for spec in specs if spec.cost.params]
    assert [line.split()[0] for line in brief[2:-2]] == weighted
    assert brief[-2] == f"(and {len(specs) - len(weighted)} layers without weights)"
    for row in plan.rows:
        assert (row.layer_type is None) == (row.reason is not None)
        assert (row.reason or row.layer_type) in plan.table(every=True)


def test_table_is_plain_text(network):
    text = Energy().select(layer_specs(network), Budget(macs=0.4)).table(every=True)
    assert text.isascii()
    assert "\t" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_summary_gives_totals_and_verdict(network):
    specs = layer_specs(network)
    plan = Energy().select(specs, Budget(macs=0.4))
    assert plan.table().endswith(plan.summary())
    assert f"macs: {plan.dense.macs:,} -> {plan.after.macs:,}" in plan.summary()
    assert plan.summary().endswith("budget macs <= 40.0%: met")
    missed = Energy().select(specs, Budget(macs=1e-6))
    assert missed.summary().endswith(": NOT met")
    assert "budget" not in Ratio(rate=2.0).select(specs).summary()


def test_a_shared_layer_stands_once_with_all_its_calls(network):
    plan = Ratio(rate=2.0).select(layer_specs(network))
    (row,) = (row for row in plan.rows if row.name == "shared")
    # Two calls on 8x8 maps; the weights exist once.
    assert row.dense.params == 9 * 24 * 24 + 24
    assert row.dense.macs == 2 * 64 * 9 * 24 * 24
    assert row.changed


@st.composite
def small_models(draw):
    size = draw(st.integers(3, 9))
    side = draw(st.integers(1, 3))
    channels = draw(st.integers(1, 20))
    conv = keras.layers.Conv2D(
        draw(st.integers(1, 20)),
        side,
        strides=draw(st.integers(1, 2)),
        padding="same",
        use_bias=draw(st.booleans()),
    )
    dense = keras.layers.Dense(draw(st.integers(1, 20)))
    shape = (size, size, channels)
    return keras.Sequential(
        [keras.Input(shape), conv, keras.layers.GlobalMaxPooling2D(), dense]
    )


@settings(max_examples=30, deadline=None)
@given(small_models(), st.floats(0.05, 0.99), st.sampled_from(["cheapest", None]))
def test_nothing_is_replaced_unless_params_and_macs_fall(model, fraction, types):
    options = {} if types is None else {"types": {"*": types}}
    specs = layer_specs(model)
    plan = Fixed(ranks={"*": fraction}, round_to=1, **options).select(specs)
    for spec, row in zip(specs, plan.rows, strict=True):
        assert row.before == spec.cost
        if row.changed:
            assert row.after.params < row.before.params
            assert row.after.macs < row.before.macs
            continue
        assert row.after == row.before
        selector = Fixed(ranks={"*": fraction}, round_to=1, **options)
        for name in selector.candidates(spec):
            # Left alone only where no candidate type saves both.
            cls = registry.get(name)
            largest = cls.max_ranks(tuple(spec.layer.kernel.shape))
            ranks = tuple(selector.rounded(fraction * most, most) for most in largest)
            cost = cls.cost(spec, ranks)
            assert cost.params >= spec.cost.params or cost.macs >= spec.cost.macs


@given(
    st.floats(0.0, 600.0),
    st.integers(1, 512),
    st.one_of(st.none(), st.integers(1, 16)),
    st.integers(1, 32),
)
def test_rounded_ranks_are_usable(rank, largest, round_to, min_rank):
    selector = Ratio(rate=2.0, round_to=round_to, min_rank=min_rank)
    result = selector.rounded(rank, largest)
    assert 1 <= result <= largest
    assert result >= min(min_rank, largest)
    floor = max(min(min_rank, largest), 1)
    assert result <= max(rank, floor)
    grid = round_to or (8 if largest >= 64 else 4 if largest >= 16 else 1)
    while grid > max(rank, 1):
        grid //= 2
    assert result % grid == 0 or result in (floor, largest)
    higher = selector.rounded(rank, largest, up=True)
    assert result <= higher <= largest
    assert higher >= min(rank, largest)
    assert higher % grid == 0 or higher in (floor, largest)
    assert selector.rounded(rank + 1.0, largest) >= result


def test_options_are_checked():
    with pytest.raises(RankError, match="round_to"):
        Ratio(rate=2.0, round_to=0)
    with pytest.raises(RankError, match="min_rank"):
        Ratio(rate=2.0, min_rank=0)
    with pytest.raises(RankError, match="did you mean 'Tucker2Conv2D'"):
        Ratio(rate=2.0, types={"*": "TuckerConv2D"})


def test_layer_plan_is_data(network):
    plan = Ratio(rate=2.0).select(layer_specs(network))
    assert all(isinstance(row, LayerPlan) for row in plan.rows)
    with pytest.raises(AttributeError):
        plan.rows[0].ranks = (1,)
