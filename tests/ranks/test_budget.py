"""Limits that are hit exactly. What else a budget does: tests/ranks/test_plan.py."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfcompress.ranks import Budget
from tfcompress.ranks.budget import FIELDS, no_latency, within
from tfcompress.spec import Cost

wholes = st.integers(1, 10**11)


@given(wholes, wholes)
@example(29, 100)
@example(49, 49)
def test_a_limit_is_met_by_what_it_is_the_fraction_of(part, whole):
    """`part / whole * whole` may be less than `part`: 28.999999999999996 of 29."""
    part, whole = sorted((part, whole))
    budget = Budget(macs=part / whole)
    assert budget.met(Cost(0, part, 0), Cost(0, whole, 0))
    assert not budget.met(Cost(0, part + 1, 0), Cost(0, whole, 0))


@given(st.floats(1e-6, 1e12), st.floats(1e-9, 1.0))
def test_rounding_is_all_that_is_forgiven(limit, more):
    assert within(limit, limit)
    assert within(0.0, limit)
    assert not within(limit * (1.0 + more), limit)


@given(wholes, wholes, st.floats(1e-3, 1.0))
def test_the_first_stage_is_where_the_model_is(part, whole, limit):
    part, whole = sorted((part, whole))
    dense, now = Cost(whole, whole, whole), Cost(part, part, part)
    budget = Budget(params=limit, macs=limit, bytes=limit)
    assert budget.toward(now, dense, 0.0).met(now, dense)


@pytest.mark.parametrize("name", FIELDS)
def test_each_limit_looks_at_its_own_field(name):
    dense, budget = Cost(100, 100, 100), Budget(**{name: 0.5})
    assert budget.met(dense._replace(**{name: 50}), dense)
    assert not budget.met(Cost(1, 1, 1)._replace(**{name: 51}), dense)


def test_a_model_of_nothing_is_within_every_budget():
    nothing = Cost(0, 0, 0)
    budget = Budget(params=0.1, macs=0.1)
    assert budget.met(nothing, nothing)
    assert budget.toward(nothing, nothing, 0.5).limits() == budget.limits()


def test_equal_budgets_are_one_and_none_can_be_changed():
    assert len({Budget(macs=0.5), Budget(macs=0.5), Budget(params=0.5)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(macs=0.5).macs = 0.4


def test_a_limit_nobody_plans_for_says_the_way_out():
    text = str(no_latency("Energy", Budget(latency=0.4)))
    assert "'budgeted'" in text
    assert "limit macs" in text
    assert text.endswith("Received: latency=0.4")
