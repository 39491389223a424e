"""Energy: the same relative weight error for every layer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.cost import layer_specs
from tfcompress.errors import RankError
from tfcompress.layers.support import to_numpy
from tfcompress.ranks import Budget, Energy
from tfcompress.ranks.energy import rank_for_energy
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

TYPES = ("Tucker2Conv2D", "SpatialSVDConv2D", "ChannelSVDConv2D")


def lost_energy(model, new, path):
    old, made = (dict(leaves(m))[path] for m in (model, new))
    kernel = to_numpy(old.kernel) if not hasattr(old, "factors") else old.kernel()
    error = np.square(made.kernel() - kernel, dtype=np.float64).sum()
    return error / np.square(kernel, dtype=np.float64).sum()


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    st.integers(0, 999),
)
def test_rank_for_energy_is_the_smallest_that_keeps_it(values, thousandths):
    # Whole numbers: the brute force is exact.
    values = sorted(values, reverse=True)
    total = sum(v * v for v in values)
    rank = rank_for_energy(np.array(values, float), thousandths / 1000)
    tails = [sum(v * v for v in values[r:]) for r in range(len(values) + 1)]
    allowed = [
        r
        for r in range(1, len(values) + 1)
        if 1000 * tails[r] <= thousandths * total or total == 0
    ]
    assert rank == min(allowed)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_losing_nothing_keeps_every_rank(values):
    values = np.sort(values)[::-1]
    assert rank_for_energy(values, 0.0) == np.count_nonzero(
        np.cumsum(values[::-1] ** 2)[::-1] > 1e-12 * np.sum(values**2)
    )


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", TYPES)
def test_built_layers_keep_the_threshold(network, name, threshold):
    types = {"*": name, "hidden": "cheapest"}
    selector = Energy(threshold=threshold, types=types)
    plan = selector.select(layer_specs(network))
    new = factorize(network, plan.choices())
    assert plan.choices()
    for path in plan.choices():
        assert lost_energy(network, new, path) <= 1.0 - threshold + 1e-6


@pytest.mark.parametrize("name", ["SpatialSVDConv2D", "ChannelSVDConv2D"])
def test_one_rank_less_would_lose_too_much(network, name):
    selector = Energy(threshold=0.8, types={"*": name}, round_to=1)
    choices = selector.select(layer_specs(network)).choices()
    less = {
        path: (kind, (ranks[0] - 1,))
        for path, (kind, ranks) in choices.items()
        if ranks[0] > 1
    }
    assert less
    new = factorize(network, less)
    for path in less:
        assert lost_energy(network, new, path) > 0.2


def test_a_second_pass_keeps_its_threshold(factorized):
    plan = Energy(threshold=0.9, round_to=1).select(layer_specs(factorized))
    new = factorize(factorized, plan.choices())
    again = [row.name for row in plan.rows if row.changed and row.kind in TYPES]
    assert again
    for path in again:
        assert lost_energy(factorized, new, path) <= 0.1 + 1e-6


def test_a_higher_threshold_keeps_higher_ranks(network):
    specs = layer_specs(network)
    ranks = []
    for threshold in (0.3, 0.5, 0.7, 0.8):
        options = {"threshold": threshold, "types": {"shared": "Tucker2Conv2D"}}
        rows = Energy(**options, round_to=1).select(specs).rows
        ranks.append([row.ranks for row in rows if row.name == "shared"][0])
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]


def test_a_budget_gives_one_loss_for_all_layers(network):
    plan = Energy(round_to=1).select(layer_specs(network), Budget(macs=0.3))
    new = factorize(network, plan.choices())
    lost = {p: lost_energy(network, new, p) for p in plan.choices()}
    # The loss sought is at least that of every layer; the ranks next below it all
    # lose more: so the thresholds of any two layers overlap.
    sought = max(lost.values())
    kept = Energy(threshold=1.0 - sought - 1e-3, round_to=1)
    assert kept.select(layer_specs(network)).after.macs <= 1.05 * plan.after.macs


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(RankError, match=r"threshold must lie in \(0, 1\)"):
        Energy(threshold=threshold)


def test_needs_a_threshold_or_a_budget(network):
    with pytest.raises(RankError, match="needs a threshold or a budget"):
        Energy().select(layer_specs(network))
