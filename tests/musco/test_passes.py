"""MUSCO's schedule: passes, groups, weakened ranks."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.cost import model_cost
from tfcompress.errors import NothingToCompressError, TfcompressError
from tfcompress.layers import FactorizedLayer
from tfcompress.musco import musco
from tfcompress.ranks import VBMF, Budget, Fixed, Ratio
from tfcompress.ranks.vbmf import weakened_rank
from tfcompress.trace import leaves

SIZE, RANK = 48, 6
SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 32, "jit_compile": False}
# Fine-tuning that changes nothing: the very least of lengths and of rates.
IDLE = {**SHORT, "learning_rate": 1e-12, "weight_decay": 0.0}


def planted(seed):
    """A kernel of a known rank under noise."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(SIZE, RANK)))[0] for _ in range(2))
    return 6.0 * left @ right.T + 0.05 * rng.normal(size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE,))
    x = inputs
    for index in range(4):
        x = layers.Dense(SIZE, activation="relu", name=f"dense{index}")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x), name="planted")
    for index in range(4):
        model.get_layer(f"dense{index}").kernel.assign(planted(index))
    return model


@pytest.fixture(scope="module")
def data(network):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(128, SIZE)).astype("float32")
    labels = np.argmax(network(images), axis=-1)
    return (images, labels), (images[:64], labels[:64])


def ranks_of(model):
    return {
        path: layer.ranks[0]
        for path, layer in leaves(model)
        if isinstance(layer, FactorizedLayer)
    }


def test_passes_weaken_towards_the_extreme_rank(network, data):
    selector = VBMF(weakening=0.7, min_rank=1)
    result = musco(network, *data, selector=selector, passes=3, **IDLE)
    expected = SIZE
    for _ in range(3):
        expected = weakened_rank(expected, RANK, 0.7)
    assert ranks_of(result.model) == {f"dense{i}": expected for i in range(4)}
    assert len(result.history) == 3
    assert result.target_met
    assert all(r.accepted and r.budget is None for r in result.history)


def test_later_passes_use_the_first_noise_variance(network, data):
    selector = VBMF(weakening=0.7, min_rank=1)
    result = musco(network, *data, selector=selector, passes=3, **IDLE)
    notes = [r.plan.scores()["dense0"] for r in result.history]
    assert all(n["noise_variance"] == notes[0]["noise_variance"] for n in notes)
    assert [n["extreme_ranks"] for n in notes] == [[RANK]] * 3


def test_groups_take_the_last_layers_first(network, data):
    selector = VBMF(weakening=0.8, min_rank=4)
    result = musco(network, *data, selector=selector, passes=1, groups=2, **IDLE)
    changed = [set(r.plan.choices()) for r in result.history]
    # "logits" is in the first group, too small to be factorized.
    assert changed == [{"dense3"}, {"dense0", "dense1", "dense2"}]
    untouched = {row.name: row.reason for row in result.history[0].plan.rows}
    assert untouched["dense0"] == "its group has its turn in another round"


def test_groups_and_passes_come_to_the_same_ranks(network, data):
    """Without training the order cannot matter: ranks depend on a layer alone."""
    selector = VBMF(weakening=0.6, min_rank=1)
    options = {"selector": selector, "passes": 2, **IDLE}
    whole = musco(network, *data, **options)
    grouped = musco(network, *data, groups=3, **options)
    assert ranks_of(whole.model) == ranks_of(grouped.model)
    assert whole.cost == grouped.cost


def test_constant_rate(network, data):
    result = musco(network, *data, selector=Ratio(rate=2.0), passes=1, **IDLE)
    for path in ranks_of(result.model):
        row = next(r for r in result.plan.rows if r.name == path)
        assert row.after.macs <= row.dense.macs / 2


def test_a_target_stops_the_passes(network, data):
    selector = VBMF(weakening=0.9, min_rank=4)
    target = Budget(macs=0.9)
    result = musco(network, *data, selector=selector, passes=5, target=target, **IDLE)
    assert len(result.history) == 1
    assert result.target_met


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_vbmf_without_a_strength_walks_to_the_target(network, data, passes):
    selector = VBMF(weakening=None, min_rank=2)
    target = Budget(macs=0.3)
    result = musco(
        network, *data, selector=selector, passes=passes, target=target, **IDLE
    )
    assert result.target_met
    assert len(result.history) == passes
    shares = [r.plan.after.macs / r.plan.dense.macs for r in result.history]
    assert shares == sorted(shares, reverse=True)
    # Equal steps on a scale of ratios, up to the grid of ranks.
    np.testing.assert_allclose(
        np.log(shares), np.log(0.3) * np.arange(1, passes + 1) / passes, atol=0.15
    )


def test_a_target_out_of_reach_is_told(network, data):
    result = musco(network, *data, passes=1, target=Budget(macs=0.01), **IDLE)
    assert not result.target_met
    assert "target NOT met" in result.summary()


def test_the_model_is_left_alone(network, data):
    before = [np.array(w) for w in network.weights]
    result = musco(network, *data, passes=1, **SHORT)
    for old, new in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert result.original_cost == model_cost(network)
    assert result.cost == model_cost(result.model)
    assert result.cost.macs < result.original_cost.macs


def test_calibration_gives_other_factors(network, data):
    plain = musco(network, *data, passes=1, **IDLE)
    aware = musco(network, *data, passes=1, calibration_steps=2, **IDLE)
    assert plain.plan.choices() == aware.plan.choices()
    kl = [r.history[0].factorized["kl"] for r in (plain, aware)]
    assert kl[1] < kl[0]


@pytest.mark.parametrize("options", [{"passes": 0}, {"groups": 0}])
def test_bad_arguments(network, data, options):
    ((name, value),) = options.items()
    with pytest.raises(TfcompressError, match=f"Received: .*{name}={value}"):
        musco(network, *data, **options)


def test_nothing_to_compress(network, data):
    with pytest.raises(NothingToCompressError, match=r"'planted'.*by Fixed"):
        musco(network, *data, selector=Fixed(ranks={}), **IDLE)
