"""Budgeted: one allocator for all layers."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfcompress.cost import layer_specs, model_cost
from tfcompress.errors import RankError
from tfcompress.ranks import Budget, Budgeted, Plan
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


widths = st.integers(4, 64)
convolutions = st.fixed_dictionaries(
    {
        "filters": widths,
        "kernel_size": st.sampled_from([1, 3, (1, 3)]),
        "strides": st.integers(1, 2),
        "use_bias": st.booleans(),
    }
)


@given(
    convs=st.lists(convolutions, max_size=2),
    units=st.lists(widths, min_size=1, max_size=3),
    side=st.integers(4, 8),
    field=st.sampled_from(["macs", "params", "bytes"]),
    limit=st.floats(0.1, 1.0),
    seed=st.integers(0, 100),
)
@settings(max_examples=20, deadline=None)
def test_nothing_grows_and_budgets_are_honest(convs, units, side, field, limit, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((side, side, 8))]
        + [layers.Conv2D(**options, padding="same") for options in convs]
        + [layers.GlobalAveragePooling2D()]
        + [layers.Dense(width) for width in units]
    )
    specs = layer_specs(model)
    plan = Budgeted().select(specs, Budget(**{field: limit}))
    for row in plan.rows:
        if row.changed:
            assert row.after.macs < row.dense.macs
            assert row.after.params < row.dense.params
        else:
            assert row.after == row.dense
            assert row.reason
    used, most = getattr(plan.after, field), limit * getattr(plan.dense, field)
    assert plan.met == (used <= most + 1e-6)
    assert model_cost(factorize(model, plan.choices())) == plan.after
    if not plan.met:
        # Out of reach: nothing smaller was left to take.
        smallest = Budgeted().select(specs, Budget(**{field: 1e-6}))
        assert used == getattr(smallest.after, field)


@pytest.mark.parametrize("limit", [0.7, 0.6, 0.3])
def test_what_a_plan_costs_is_a_budget_that_can_be_met(limit):
    """Hit exactly, a limit is met: times the whole it may be rounded down."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((24,)), layers.Dense(24), layers.Dense(24), layers.Dense(10)]
    )
    specs = layer_specs(model)
    first = Budgeted().select(specs, Budget(macs=limit))
    again = Budgeted().select(specs, Budget(macs=first.after.macs / first.dense.macs))
    assert again.met
    assert again.choices() == first.choices()


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
    found = json.loads(json.dumps(plan.to_dict()))
    assert (found["met"], found["selector"]) == (True, "Budgeted")
    assert found["budget"] == {"macs": 0.5}
    assert [row["name"] for row in found["layers"]] == ["one", "two", "logits"]
    assert Plan.from_json(plan.to_json()) == plan


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


@pytest.mark.parametrize("asked", [4000, 41, 0, -3])
def test_ranks_that_a_layer_cannot_have(network, asked):
    message = rf"Layer 'hidden'.*from 1 to 40.*Received: {asked}"
    with pytest.raises(RankError, match=message):
        Budgeted(ranks={"hidden": asked}).select(layer_specs(network), Budget(macs=0.5))


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("hidden", (8, 8), r"FactorizedDense 1; one integer.*Received: ranks=\(8, 8\)"),
        ("shared", (4, 4, 4), r"Tucker2Conv2D 2.*Received: ranks=\(4, 4, 4\)"),
        ("shared", (12, 25), r"at most.*Received: .*12, 25"),
        ("hidden", 0.5, r"positive integer.*Received: ranks=0.5"),
        ("hidden", "8", r"positive integer.*Received: ranks=8"),
    ],
)
def test_ranks_of_the_wrong_kind(network, name, asked, message):
    selector = Budgeted(ranks={name: asked})
    with pytest.raises(RankError, match=f"Layer '{name}'.*{message}"):
        selector.select(layer_specs(network), Budget(macs=0.5))


def test_the_last_pattern_that_matches_wins(network):
    specs, budget = layer_specs(network), Budget(macs=0.8)
    for ranks, wanted in (({"*": 4, "hidden": 12}, 12), ({"hidden": 12, "*": 4}, 4)):
        plan = Budgeted(ranks=ranks).select(specs, budget)
        assert choice(plan, "hidden").ranks == (wanted,)
        assert choice(plan, "point").ranks == (4,)


def test_keep_wins_over_ranks(network):
    plan = Budgeted(keep=("hid*",), ranks={"hidden": 8}).select(
        layer_specs(network), Budget(macs=0.6)
    )
    assert choice(plan, "hidden").reason == "kept as asked"
    assert plan.met


@pytest.mark.parametrize(
    ("ranks", "layer_type"),
    [((12, 16), "Tucker2Conv2D"), ((16,), "SpatialSVDConv2D")],
)
def test_a_tuple_of_ranks_tells_the_type(network, ranks, layer_type):
    plan = Budgeted(ranks={"shared": ranks}).select(
        layer_specs(network), Budget(macs=0.6)
    )
    row = choice(plan, "shared")
    assert (row.layer_type, row.ranks) == (layer_type, ranks)
    assert plan.met


def test_ranks_that_save_nothing_leave_the_layer(network):
    """Rank 40 of a layer of 40 outputs is more weights than the layer has."""
    plan = Budgeted(ranks={"hidden": 40}).select(layer_specs(network), Budget(macs=0.6))
    assert choice(plan, "hidden").reason == "no ranks make it smaller"
    assert plan.met


def test_only_the_types_asked_for(network):
    selector = Budgeted(types={"*": "cheapest", "shared": "SpatialSVDConv2D"})
    plan = selector.select(layer_specs(network), Budget(macs=0.3))
    assert choice(plan, "shared").layer_type == "SpatialSVDConv2D"


def test_grid_and_smallest_rank_can_be_given(network):
    plan = Budgeted(round_to=5, min_rank=7).select(
        layer_specs(network), Budget(macs=0.5)
    )
    ranks = [rank for row in plan.rows if row.changed for rank in row.ranks]
    wholes = {24, 32, 40, 48}
    assert ranks
    assert all(rank >= 7 for rank in ranks)
    assert all(rank % 5 == 0 or rank in wholes for rank in ranks)


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
    before = [np.array(weight) for weight in network.weights]
    plans = [
        Budgeted().select(layer_specs(network), Budget(macs=0.4)) for _ in range(2)
    ]
    assert plans[0] == plans[1]
    for old, weight in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
