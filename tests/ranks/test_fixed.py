"""Fixed: the ranks a user gives."""

import pytest

from tfcompress.cost import layer_specs
from tfcompress.errors import RankError
from tfcompress.ranks import Budget, Fixed


def rows_of(model, **options):
    plan = Fixed(**options).select(layer_specs(model))
    return {row.name: row for row in plan.rows}


def test_ranks_are_taken_as_given(network):
    rows = rows_of(
        network, ranks={"shared": (7, 11), "inner/conv": 5, "hidden": 3, "logits": None}
    )
    assert rows["shared"].ranks == (7, 11)
    assert rows["inner/conv"].ranks == (5, 5)  # one number for both ranks of Tucker-2
    assert rows["hidden"].ranks == (3,)
    assert rows["logits"].reason == "kept as asked"
    assert rows["point"].reason == "no rank given"
    assert rows["stem"].reason == "no rank given"


def test_the_last_matching_pattern_wins(network):
    rows = rows_of(network, ranks={"*": 2, "hidden": 4, "point": None})
    assert (rows["hidden"].ranks, rows["logits"].ranks) == ((4,), (2,))
    assert not rows["point"].changed
    rows = rows_of(network, ranks={"hidden": 4, "*": 2})
    assert rows["hidden"].ranks == (2,)


def test_fractions_are_of_the_largest_useful_rank(network):
    rows = rows_of(network, ranks={"*": 0.5})
    # 24 -> 24 channels, 24 -> 32 channels, both on the grid of four.
    assert rows["shared"].ranks == (12, 12)
    assert rows["inner/conv"].ranks == (12, 16)
    rows = rows_of(network, ranks={"shared": 0.3}, round_to=1)
    assert rows["shared"].ranks == (7, 7)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_fractions_out_of_range(network, fraction):
    with pytest.raises(RankError, match=r"must lie in \(0, 1\). Received: hidden="):
        rows_of(network, ranks={"hidden": fraction})


@pytest.mark.parametrize("rank", [0, -1, 41, True, (3, 4), ()])
def test_ranks_out_of_range(network, rank):
    with pytest.raises(RankError, match="Received: ranks="):
        rows_of(network, ranks={"hidden": rank})


def test_a_rank_that_saves_nothing_is_refused(network):
    # 48 inputs, 40 units: 21 * 88 < 48 * 40 < 22 * 88.
    rows = rows_of(network, ranks={"hidden": 22})
    assert rows["hidden"].reason == "rank 22 would not make it smaller"
    assert rows["hidden"].after == rows["hidden"].before
    assert rows_of(network, ranks={"hidden": 21})["hidden"].changed


def test_a_second_pass_only_cuts(factorized):
    rows = rows_of(factorized, ranks={"shared": (20, 4), "hidden": 20, "point": 30})
    assert rows["shared"].ranks == (12, 4)
    assert rows["hidden"].ranks == (20,) and not rows["hidden"].changed
    assert rows["point"].ranks == (14,) and not rows["point"].changed


def test_an_unknown_layer_is_an_error(network):
    with pytest.raises(RankError, match="did you mean 'logits'"):
        rows_of(network, ranks={"logit": 3})


def test_a_budget_is_only_recorded(network):
    plan = Fixed(ranks={"hidden": 12}).select(layer_specs(network), Budget(params=0.1))
    assert not plan.met
    assert plan.choices() == {"hidden": ("FactorizedDense", (12,))}
