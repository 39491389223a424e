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
