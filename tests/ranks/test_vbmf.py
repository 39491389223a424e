"""VBMF: extreme ranks from the noise floor, weakened."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfcompress.cost import layer_specs
from tfcompress.errors import RankError
from tfcompress.ranks import VBMF
from tfcompress.ranks.vbmf import weakened_rank
from tfcompress.surgery import factorize

RANKS = {"conv": (12, 12), "point": (14,), "dense": (16,)}


def planted(shape, rank, noise, rng):
    """A kernel of exactly that rank in both channel modes, plus white noise."""
    core = rng.normal(size=(*shape[:-2], rank, rank))
    u, v = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in shape[-2:])
    if len(shape) == 2 or shape[:2] == (1, 1):
        core = np.broadcast_to(np.diag(np.linspace(6, 9, rank)), core.shape)
    return u @ core @ v.T + noise * rng.normal(size=shape)


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    inputs = keras.Input((8, 8, 48))
    x = layers.Conv2D(56, 3, padding="same", name="conv")(inputs)
    x = layers.Conv2D(64, 1, name="point")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(96, name="dense")(x))
    for name, rank, noise in (
        ("conv", 12, 0.02),
        ("point", 14, 0.1),
        ("dense", 16, 0.1),
    ):
        kernel = model.get_layer(name).kernel
        kernel.assign(planted(kernel.shape, rank, noise, rng))
    return model


def ranks_of(plan):
    return {row.name: row.ranks for row in plan.rows if row.ranks}


def test_extreme_ranks_are_the_planted_ones(noisy):
    plan = VBMF(weakening=1.0).select(layer_specs(noisy))
    assert ranks_of(plan) == RANKS
    for name, found in plan.scores().items():
        assert tuple(found["extreme_ranks"]) == RANKS[name]


def test_the_noise_variance_is_found(noisy):
    scores = VBMF().select(layer_specs(noisy)).scores()
    expected = {"conv": 0.02**2, "point": 0.1**2, "dense": 0.1**2}
    for name, variance in expected.items():
        (found,) = scores[name]["noise_variance"].values()
        assert found == pytest.approx([variance] * len(found), rel=0.2)


@given(st.integers(1, 4096), st.data(), st.floats(0.0, 1.0))
def test_weakened_rank_lies_between(rank, data, weakening):
    extreme = data.draw(st.integers(0, rank))
    weak = weakened_rank(rank, extreme, weakening)
    assert extreme - 1 <= weak <= rank
    assert weak <= rank - weakening * (rank - extreme) < weak + 1 + 1e-9


def test_weakened_rank_at_its_ends():
    assert weakened_rank(64, 14, 0.0) == 64
    assert weakened_rank(64, 14, 1.0) == 14
    assert weakened_rank(64, 14, 0.8) == 24
    assert weakened_rank(64, 14, 0.5) == 39


def test_plans_follow_the_formula(noisy):
    plan = VBMF(weakening=0.7).select(layer_specs(noisy))
    full = {"conv": (48, 56), "point": (56,), "dense": (64,)}
    assert ranks_of(plan) == {
        name: tuple(
            int(r - 0.7 * (r - e)) for r, e in zip(full[name], e_s, strict=True)
        )
        for name, e_s in RANKS.items()
    }


def test_min_rank_is_a_floor_and_a_threshold(noisy):
    plan = VBMF(weakening=1.0, min_rank=15).select(layer_specs(noisy))
    assert ranks_of(plan) == {"conv": (15, 15), "point": (15,), "dense": (16,)}
    plan = VBMF(weakening=1.0, min_rank=56).select(layer_specs(noisy))
    # 48 and 56 channels are no more than that: left alone.
    assert "conv" not in plan.choices() and "point" not in plan.choices()


@pytest.mark.parametrize("first", [0.6, 0.9, 1.0])
def test_later_rounds_keep_the_first_noise_variance(noisy, first):
    start = VBMF(weakening=first).select(layer_specs(noisy))
    model = factorize(noisy, start.choices())
    extreme = VBMF(weakening=1.0)
    kept = extreme.select(layer_specs(model), None, start.scores())
    assert ranks_of(kept) == RANKS
    assert kept.scores() == start.scores()


def test_without_scores_a_second_round_calls_signal_noise(noisy):
    extreme = VBMF(weakening=1.0)
    model = factorize(noisy, extreme.select(layer_specs(noisy)).choices())
    fresh = ranks_of(extreme.select(layer_specs(model)))
    assert fresh["point"] < RANKS["point"]
    assert fresh["dense"] < RANKS["dense"]


def test_pure_noise_is_left_alone_with_a_reason():
    inputs = keras.Input((60,))
    model = keras.Model(inputs, layers.Dense(80, name="dense")(inputs))
    rng = np.random.default_rng(3)
    model.get_layer("dense").kernel.assign(rng.normal(size=(60, 80)))
    plan = VBMF(weakening=1.0).select(layer_specs(model))
    (row,) = (row for row in plan.rows if row.name == "dense")
    assert row.reason == "EVBMF finds nothing above the noise"
    assert not row.changed
    (variance,) = row.notes["noise_variance"]["FactorizedDense"]
    assert variance == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("weakening", [-0.1, 1.1, float("nan")])
def test_weakening_out_of_range(weakening):
    with pytest.raises(RankError, match=r"weakening must lie in \[0, 1\]"):
        VBMF(weakening=weakening)


def test_needs_a_weakening_or_a_budget(noisy):
    with pytest.raises(RankError, match="needs a weakening factor or a budget"):
        VBMF(weakening=None).select(layer_specs(noisy))
