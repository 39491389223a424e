"""What holds for every rank selector."""

import keras
import numpy as np
import pytest

from tfcompress.cost import layer_specs, model_cost
from tfcompress.errors import RankError
from tfcompress.layers import FactorizedLayer
from tfcompress.ranks import SELECTORS, VBMF, Budget, Energy, Fixed, Ratio
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

# Random kernels are noise to EVBMF: the noise variance says what counts.
QUIET = {
    name: {"noise_variance": {kind: [1e-9] * (1 + (kind == "Tucker2Conv2D"))}}
    for name, kind in {
        "stem": "Tucker2Conv2D",
        "shared": "Tucker2Conv2D",
        "inner/conv": "Tucker2Conv2D",
        "point": "ChannelSVDConv2D",
        "hidden": "FactorizedDense",
        "logits": "FactorizedDense",
    }.items()
}
BY_BUDGET = [Ratio(), Energy(), Ratio(round_to=1), Energy(round_to=1)]
ALL = [Fixed(ranks={"*": 0.3}), Ratio(rate=3.0), Energy(threshold=0.7), VBMF()]


def name_of(selector):
    return f"{type(selector).__name__}-{selector.round_to}"


@pytest.mark.parametrize("selector", BY_BUDGET, ids=name_of)
@pytest.mark.parametrize("which", ["network", "factorized"])
@pytest.mark.parametrize(
    "budget",
    [Budget(macs=0.6), Budget(macs=0.25), Budget(params=0.3), Budget(bytes=0.3)],
    ids=Budget.describe,
)
def test_budgets_are_met_and_costs_are_true(selector, which, budget, request):
    model = request.getfixturevalue(which)
    plan = selector.select(layer_specs(model), budget)
    assert plan.met
    built = model_cost(factorize(model, plan.choices()))
    assert built == plan.after
    ((name, limit),) = budget.limits().items()
    assert getattr(built, name) <= limit * getattr(plan.dense, name)


@pytest.mark.parametrize("selector", [Ratio(round_to=1), Energy(round_to=1)])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_budgets_are_not_overshot(network, selector, share):
    plan = selector.select(layer_specs(network), Budget(macs=share))
    # One rank of the costliest layer is worth about a hundredth.
    assert share - 0.08 <= plan.after.macs / plan.dense.macs <= share


def test_vbmf_finds_its_weakening_for_a_budget(network):
    selector = VBMF(weakening=None, min_rank=1)
    noisy = {
        name: {"noise_variance": {k: [1e9] * len(v) for k, v in s.items()}}
        for name, s in ((n, q["noise_variance"]) for n, q in QUIET.items())
    }
    # Where EVBMF finds nothing, the search goes on from all ranks to the smallest.
    assert selector.select(layer_specs(network), Budget(macs=0.5), noisy).met
    given = VBMF(min_rank=1).select(layer_specs(network), None, noisy)
    assert given.choices() == {}
    middle = {
        name: {"noise_variance": {k: [2e-3] * len(v) for k, v in s.items()}}
        for name, s in ((n, q["noise_variance"]) for n, q in QUIET.items())
    }
    hard = VBMF(weakening=1.0, min_rank=1).select(layer_specs(network), None, middle)
    share = (hard.after.macs / hard.dense.macs + 1.0) / 2.0
    plan = selector.select(layer_specs(network), Budget(macs=share), middle)
    assert plan.met
    assert hard.after.macs < plan.after.macs <= share * plan.dense.macs
    # Beyond the extreme ranks, towards the smallest.
    beyond = Budget(macs=0.9 * hard.after.macs / hard.dense.macs)
    plan = selector.select(layer_specs(network), beyond, middle)
    assert plan.met and plan.after.macs < hard.after.macs
    assert model_cost(factorize(network, plan.choices())) == plan.after


@pytest.mark.parametrize("selector", BY_BUDGET, ids=name_of)
def test_an_unmet_budget_is_told(network, selector):
    plan = selector.select(layer_specs(network), Budget(macs=1e-4))
    assert not plan.met
    # Nothing stronger was left: every replaced layer is at rank one.
    assert {r for row in plan.rows if row.changed for r in row.ranks} == {1}


@pytest.mark.parametrize("selector", BY_BUDGET, ids=name_of)
def test_smaller_budgets_never_cost_more(network, selector):
    specs = layer_specs(network)
    costs = [
        selector.select(specs, Budget(macs=share)).after.macs
        for share in (0.8, 0.5, 0.3, 0.2, 0.1)
    ]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("selector", ALL, ids=name_of)
def test_ranks_never_rise(factorized, selector):
    specs = layer_specs(factorized)
    plan = selector.select(specs, None, QUIET)
    now = {
        path: layer.ranks
        for path, layer in leaves(factorized)
        if isinstance(layer, FactorizedLayer)
    }
    rows = {row.name: row for row in plan.rows}
    assert set(now) == {"shared", "inner/conv", "point", "hidden"}
    for path, ranks in now.items():
        row = rows[path]
        # The layer keeps its type: a Tucker layer does not become a pair.
        assert row.layer_type == row.kind
        assert all(r <= limit for r, limit in zip(row.ranks, ranks, strict=True))
        assert row.changed == (row.ranks != ranks)
    new = factorize(factorized, plan.choices())
    assert model_cost(new) == plan.after


@pytest.mark.parametrize("selector", ALL, ids=name_of)
def test_passes_end(network, selector):
    model, costs = network, []
    for _ in range(40):
        plan = selector.select(layer_specs(model), None, QUIET)
        if not plan.choices():
            break
        model = factorize(model, plan.choices())
        costs.append(model_cost(model).macs)
    assert costs == sorted(set(costs), reverse=True)
    assert not plan.choices()


@pytest.mark.parametrize("selector", ALL, ids=name_of)
def test_planning_changes_nothing(network, selector):
    before = [w.copy() for w in network.get_weights()]
    selector.select(layer_specs(network))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("make", [Ratio, Energy, VBMF])
def test_keep_leaves_layers_alone(network, make):
    plan = make(keep=("sh*", "inner/*")).select(layer_specs(network), Budget(macs=0.9))
    rows = {row.name: row for row in plan.rows}
    for name in ("shared", "inner/conv", "inner/depthwise"):
        assert not rows[name].changed
        assert rows[name].reason == "kept as asked"


@pytest.mark.parametrize("make", [Ratio, Energy, VBMF])
@pytest.mark.parametrize("option", ["keep", "types"])
def test_a_pattern_that_matches_nothing_is_an_error(network, make, option):
    given = ("hiden",) if option == "keep" else {"hiden": "cheapest"}
    with pytest.raises(RankError, match="'hiden'; did you mean 'hidden'"):
        make(**{option: given}).select(layer_specs(network), Budget(macs=0.5))
    with pytest.raises(RankError, match="No layer matches 'block9/"):
        make(keep=("block9/*",)).select(layer_specs(network), Budget(macs=0.5))


def test_types_choose_the_layer_type(network):
    types = {"*": "cheapest", "inner/*": "SpatialSVDConv2D", "shared": "Tucker2Conv2D"}
    plan = Ratio(rate=3.0, types=types).select(layer_specs(network))
    rows = {row.name: row for row in plan.rows}
    assert rows["inner/conv"].layer_type == "SpatialSVDConv2D"
    assert rows["shared"].layer_type == "Tucker2Conv2D"
    # The last pattern that matches wins.
    turned = {"inner/*": "SpatialSVDConv2D", "*": "Tucker2Conv2D"}
    plan = Ratio(rate=3.0, types=turned).select(layer_specs(network))
    rows = {row.name: row for row in plan.rows}
    assert rows["inner/conv"].layer_type == "Tucker2Conv2D"
    assert rows["hidden"].reason == "the layer type asked for cannot replace it"


def test_cheapest_takes_the_fewest_macs(network):
    specs = layer_specs(network)
    cheapest = Ratio(rate=3.0, types={"*": "cheapest"}).select(specs)
    conv = {row.name: row for row in cheapest.rows}["shared"]
    for name in ("Tucker2Conv2D", "SpatialSVDConv2D", "ChannelSVDConv2D"):
        single = Ratio(rate=3.0, types={"shared": name}).select(specs)
        row = {row.name: row for row in single.rows}["shared"]
        assert conv.after.macs <= row.after.macs


def test_layers_without_a_type_say_why(network):
    plan = Ratio(rate=2.0).select(layer_specs(network))
    reasons = {row.name: row.reason for row in plan.rows}
    assert "depthwise" in reasons["inner/depthwise"]
    assert reasons["relu"] == "no weights"


def test_a_model_without_kernels_gives_an_empty_plan():
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    plan = Energy(threshold=0.5).select(layer_specs(model))
    assert plan.choices() == {}


def test_names_lead_to_selectors():
    from tfcompress import ranks

    assert {n: getattr(ranks, c).__name__ for n, c in SELECTORS.items()} == {
        "budgeted": "Budgeted",
        "fixed": "Fixed",
        "ratio": "Ratio",
        "energy": "Energy",
        "vbmf": "VBMF",
    }
