"""Options of a layer: which are worth a look, and which few are measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.ranks.options import Option, thinned, undominated
from tfcompress.spec import Cost

FIELDS = ("macs", "params", "latency")
small = st.integers(0, 4)
options = st.builds(
    lambda params, macs, value, time: Option(
        "FactorizedDense", (1,), Cost(params, macs, 4 * params), value, value, time
    ),
    *(small, small, small.map(float), small.map(float)),
)


def option(layer_type, rank, macs=None):
    macs = 100 * rank if macs is None else macs
    return Option(layer_type, (rank,), Cost(rank, macs, 4 * rank), 0.1, 0.1)


def beats(one, other, resources):
    """Whether nothing about the other option is better."""
    return one.value <= other.value and np.all(
        one.costs(resources) <= other.costs(resources)
    )


def test_costs_come_in_the_order_asked_for():
    one = Option("FactorizedDense", (2,), Cost(3, 5, 12), 0.1, 0.2, 0.25)
    everything = ("latency", "bytes", "macs", "params")
    np.testing.assert_array_equal(one.costs(everything), [0.25, 12.0, 5.0, 3.0])
    assert one.costs(()).shape == (0,)


@given(
    st.lists(options, max_size=12),
    st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True),
)
def test_every_option_left_out_is_beaten_by_one_that_is_kept(found, resources):
    resources = tuple(resources)
    kept = undominated(list(found), resources)
    assert all(any(beats(k, o, resources) for k in kept) for o in found)
    assert all(o in found for o in kept)
    for place, one in enumerate(kept):
        others = kept[:place] + kept[place + 1 :]
        assert not any(beats(other, one, resources) for other in others)
    assert [o.value for o in kept] == sorted(o.value for o in kept)


@given(st.lists(options, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_options_does_not_matter(found, random):
    mixed = list(found)
    random.shuffle(mixed)
    for resources in (("macs",), FIELDS):
        ways = [
            [(o.value, *o.costs(resources)) for o in undominated(way, resources)]
            for way in (found, mixed)
        ]
        assert ways[0] == ways[1]


def test_what_is_not_limited_does_not_count():
    """Fewer weights are no merit where only MACs are limited."""
    lean = Option("FactorizedDense", (1,), Cost(1, 10, 4), 0.5, 0.5)
    exact = Option("FactorizedDense", (2,), Cost(9, 10, 36), 0.1, 0.1)
    assert undominated([lean, exact], ("macs",)) == [exact]
    assert undominated([lean, exact], ("macs", "params")) == [exact, lean]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_few_options_are_all_measured(count):
    few = [option("FactorizedDense", rank) for rank in range(1, count + 1)]
    assert thinned(few) == few


def test_many_options_are_thinned_by_type():
    """The layer as it is, and of each type the ends and some in between."""
    dense = Option(None, None, Cost(1000, 9999, 4000), 0.0, 0.0)
    tucker = [option("Tucker2Conv2D", rank) for rank in range(1, 101)]
    spatial = [option("SpatialSVDConv2D", rank) for rank in (7, 3, 5)]
    kept = thinned([*tucker[::-1], dense, *spatial])
    assert kept[0] is dense
    assert [o for o in kept if o.layer_type == "SpatialSVDConv2D"] == sorted(spatial)
    ranks = [o.ranks[0] for o in kept if o.layer_type == "Tucker2Conv2D"]
    assert len(ranks) == 8
    assert (ranks[0], ranks[-1]) == (1, 100)
    steps = np.diff(ranks)
    assert steps.max() - steps.min() <= 1


def test_nothing_to_thin():
    assert thinned([]) == []
    assert undominated([], ("macs",)) == []
