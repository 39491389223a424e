"""One option for each layer: against all combinations, on small instances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.ranks.knapsack import choose_options


@st.composite
def instances(draw, resources):
    """Items whose options lose more the less they cost, as layers' do."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    items = draw(st.integers(1, 5))
    values, costs = [], []
    for _ in range(items):
        count = rng.integers(1, 6)
        values.append(np.sort(rng.exponential(size=count)) * rng.choice([0.1, 1, 10]))
        cost = np.sort(rng.uniform(1, 10, size=(count, resources)), axis=0)[::-1]
        costs.append(cost * rng.choice([1, 100]))
    share = draw(st.floats(0.1, 1.0))
    most = np.sum([c[0] for c in costs], axis=0)
    return values, costs, share * most


def total(chosen, costs):
    return np.sum([c[i] for c, i in zip(costs, chosen, strict=True)], axis=0)


def value(chosen, values):
    return sum(v[i] for v, i in zip(values, chosen, strict=True))


def brute_force(values, costs, limits):
    """The least value within the limits, or None."""
    every = itertools.product(*(range(len(v)) for v in values))
    within = [c for c in every if np.all(total(c, costs) <= limits + 1e-9)]
    return min((value(c, values) for c in within), default=None)


@given(instances(1))
@settings(max_examples=150, deadline=None)
def test_one_limit(instance):
    values, costs, limits = instance
    chosen = choose_options(*instance)
    best = brute_force(*instance)
    if best is None:
        cheapest = [int(np.argmin(c[:, 0])) for c in costs]
        np.testing.assert_allclose(total(chosen, costs), total(cheapest, costs))
        return
    assert np.all(total(chosen, costs) <= limits * (1 + 1e-9))
    # Lagrangian relaxation misses the optimum by one item's option at most.
    widest = max(float(np.ptp(v)) for v in values)
    assert best - 1e-9 <= value(chosen, values) <= best + widest + 1e-9


@given(instances(2))
@settings(max_examples=60, deadline=None)
def test_two_limits_are_met_where_they_can_be(instance):
    values, costs, limits = instance
    best = brute_force(*instance)
    chosen = choose_options(*instance)
    if best is not None:
        # Rarely options that only fit in combination are not found: then the choice
        # that exceeds least is told, and the plan says the budget is not met.
        fits = np.all(total(chosen, costs) <= limits * (1 + 1e-9))
        one_by_one = [int(np.argmin(c.max(axis=1))) for c in costs]
        possible = np.all(total(one_by_one, costs) <= limits)
        assert fits or not possible
        if fits:
            assert value(chosen, values) >= best - 1e-9


def test_many_layers_come_close_to_the_optimum():
    """With many small options the gap of the relaxation is small."""
    rng = np.random.default_rng(0)
    values, costs = [], []
    for _ in range(40):
        ranks = np.arange(1, 25)
        values.append(rng.exponential() * 2.0 ** (-ranks / rng.uniform(2, 8)))
        costs.append((ranks * rng.uniform(1, 5))[:, None])
    limits = 0.4 * np.sum([c[-1] for c in costs], axis=0)
    chosen = choose_options(values, costs, limits)
    assert np.all(total(chosen, costs) <= limits)
    # The dual bound: no choice within the limits is better than this.
    prices = np.geomspace(1e-6, 10, 4000)
    bound = max(
        sum(np.min(v + p * c[:, 0]) for v, c in zip(values, costs, strict=True))
        - p * limits[0]
        for p in prices
    )
    assert value(chosen, values) <= 1.01 * bound


@pytest.mark.parametrize("limit", [100.0, 8.0])
def test_enough_room_takes_what_loses_nothing(limit):
    values = [np.array([0.0, 1.0]), np.array([2.0, 0.0])]
    costs = [np.array([[4.0], [1.0]]), np.array([[1.0], [4.0]])]
    assert choose_options(values, costs, np.array([limit])) == [0, 1]


def test_nothing_to_choose_from():
    assert choose_options([], [], np.array([1.0])) == []
    one = [np.array([3.0])], [np.array([[5.0]])]
    assert choose_options(*one, np.array([1.0])) == [0]
    assert choose_options(*one, np.array([0.0])) == [0]


def test_what_is_left_over_is_spent():
    """Bisection alone would leave the second item at its cheapest option."""
    values = [np.array([0.0, 10.0]), np.array([0.0, 1.0, 1.5])]
    costs = [np.array([[6.0], [1.0]]), np.array([[6.0], [3.0], [1.0]])]
    assert choose_options(values, costs, np.array([9.0])) == [0, 1]


@st.composite
def unordered(draw):
    """Items whose options are in any order, some equal, some worse in everything."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    counts = rng.integers(1, 6, size=draw(st.integers(1, 5)))
    values = [rng.integers(0, 6, size=n).astype(float) for n in counts]
    costs = [rng.integers(0, 6, size=(n, 1)).astype(float) for n in counts]
    return values, costs, np.array([draw(st.integers(0, 30))], np.float64)


@given(unordered())
@settings(max_examples=200, deadline=None)
def test_one_limit_is_met_exactly_where_it_can_be(instance):
    """Whole numbers hit the limit exactly: it may be used up, never overstepped."""
    values, costs, limits = instance
    spent = total(choose_options(*instance), costs)
    if brute_force(*instance) is None:
        np.testing.assert_array_equal(spent, sum(c.min(axis=0) for c in costs))
    else:
        assert np.all(spent <= limits)


@given(unordered())
@settings(max_examples=100, deadline=None)
def test_no_single_change_is_better(instance):
    """Whatever room is left, no item alone can use it."""
    values, costs, limits = instance
    chosen = choose_options(*instance)
    if brute_force(*instance) is None:
        return
    left = limits - total(chosen, costs)
    for v, c, i in zip(values, costs, chosen, strict=True):
        fits = np.all(c - c[i] <= left, axis=1)
        assert np.all(v[fits] >= v[i])


@given(instances(2), st.integers(-20, 20), st.integers(-20, 20))
@settings(max_examples=40, deadline=None)
def test_units_do_not_matter(instance, of_values, of_costs):
    """Milliseconds or seconds, nats or bits: powers of two, so nothing is rounded."""
    values, costs, limits = instance
    unit = np.array([2.0**of_costs, 1.0])
    scaled = [v * 2.0**of_values for v in values], [c * unit for c in costs]
    assert choose_options(*scaled, limits * unit) == choose_options(*instance)


def test_three_limits():
    """MACs, bytes and time: each binds where the others do not."""
    rng = np.random.default_rng(3)
    values = [np.array([0.0, 1.0, 3.0]) * rng.uniform(1, 2) for _ in range(4)]
    costs = [
        np.array([[3.0], [2.0], [1.0]]) * rng.uniform(0.5, 2.0, size=3)
        for _ in range(4)
    ]
    most = np.sum([c[0] for c in costs], axis=0)
    for tight in range(3):
        limits = most.copy()
        limits[tight] *= 0.6
        chosen = choose_options(values, costs, limits)
        best = brute_force(values, costs, limits)
        assert np.all(total(chosen, costs) <= limits)
        assert best <= value(chosen, values) <= best + 6.0
        assert value(chosen, values) > 0.0


@pytest.mark.parametrize("limit", [-5.0, 0.0, 1.0])
def test_out_of_reach_takes_the_least(limit):
    """Where what is kept already spends the budget, the rest is made as small."""
    values = [np.array([0.0, 1.0, 9.0]), np.array([0.0, 2.0])]
    costs = [np.array([[9.0], [4.0], [2.0]]), np.array([[9.0], [3.0]])]
    assert choose_options(values, costs, np.array([limit])) == [2, 1]


def test_of_two_out_of_reach_the_worse_counts():
    """Half the limit over in one resource is better than four times in the other."""
    values = [np.array([0.0, 0.0])]
    costs = [np.array([[1.5, 1.0], [0.5, 4.0]])]
    assert choose_options(values, costs, np.array([1.0, 1.0])) == [0]


def test_a_resource_that_nothing_takes():
    """A limit of nothing is kept by what costs nothing."""
    values = [np.array([0.0, 1.0]), np.array([0.0, 4.0])]
    costs = [np.array([[0.0, 4.0], [0.0, 1.0]])] * 2
    assert choose_options(values, costs, np.array([0.0, 5.0])) == [1, 0]


def test_nothing_given_is_changed():
    rng = np.random.default_rng(0)
    values = [rng.uniform(size=4) for _ in range(3)]
    costs = [rng.uniform(1, 5, size=(4, 2)) for _ in range(3)]
    limits = np.array([7.0, 7.0])
    kept = [a.copy() for a in (*values, *costs, limits)]
    first = choose_options(values, costs, limits)
    assert first == choose_options(values, costs, limits)
    for old, new in zip(kept, (*values, *costs, limits), strict=True):
        np.testing.assert_array_equal(old, new)
