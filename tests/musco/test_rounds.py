"""The loop: plan, factorize, recalibrate, fine-tune, accept or roll back."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfcompress.cost import model_cost
from tfcompress.data import load_dataset
from tfcompress.distill import evaluate
from tfcompress.errors import NothingToCompressError, TfcompressError
from tfcompress.layers import FactorizedLayer
from tfcompress.musco import as_batches, compress
from tfcompress.ranks import VBMF, Budget, Energy, Fixed
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

QUICK = {"batch_size": 96, "calibration_steps": 4, "jit_compile": False}
# Fine-tuning that changes nothing: the very least of lengths and of rates.
IDLE = {**QUICK, "epochs": 1, "steps_per_epoch": 1, "learning_rate": 1e-12}


@pytest.fixture(scope="module")
def data():
    """Arrays of whole batches: a smaller last one would be traced on its own."""
    digits = load_dataset("digits")
    validation = tuple(part[:288] for part in digits.arrays("validation"))
    return digits.arrays("train"), validation


def train_by_labels(model, data):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    images, labels = (part[:1408] for part in data[0])
    model.fit(images, labels, batch_size=64, epochs=8, verbose=0)


@pytest.fixture(scope="module")
def network(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", name="first")(inputs)
    x = layers.BatchNormalization(momentum=0.8, name="norm1")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(24, 3, strides=2, use_bias=False, name="second")(x)
    x = layers.BatchNormalization(momentum=0.8, name="norm2")(x)
    x = layers.ReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x), name="digits")
    train_by_labels(model, data)
    model.get_layer("norm1").trainable = False
    return model


@pytest.fixture(scope="module")
def small(data):
    """Two dense layers, for what does not depend on the kinds of layers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(32, name="hidden")(layers.Flatten()(inputs))
    x = layers.BatchNormalization(momentum=0.8, name="norm")(x)
    x = layers.ReLU()(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x), name="digits")
    train_by_labels(model, data)
    return model


def state_of(model):
    return [np.array(v) for v in model.variables]


def assert_same(before, after):
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.fixture(scope="module")
def compressed(network, data):
    """A compression in two rounds, with all that it told on the way."""
    calls = []
    before = state_of(network), [layer.trainable for layer in network.layers]
    result = compress(
        network,
        *data,
        target=Budget(macs=0.5),
        max_drop=0.05,
        epochs=4,
        learning_rate=3e-3,
        progress=lambda *arguments: calls.append(arguments),
        **QUICK,
    )
    after = state_of(network), [layer.trainable for layer in network.layers]
    return result, calls, before, after


def test_the_target_is_met(compressed, network):
    result = compressed[0]
    assert result.target_met
    assert result.cost == model_cost(result.model)
    assert result.original_cost == model_cost(network)
    assert result.cost.macs <= 0.5 * result.original_cost.macs


def test_the_result_is_within_the_drop_allowed(compressed, network, data):
    result = compressed[0]
    batches = tf.data.Dataset.from_tensor_slices(data[1]).batch(64)
    before = evaluate(network, batches)["accuracy"]
    after = evaluate(result.model, batches)["accuracy"]
    assert result.original["accuracy"] == pytest.approx(before)
    assert result.original["agreement"] == 1.0
    assert result.final["accuracy"] == pytest.approx(after)
    assert result.final == result.history[-1].result
    assert before > 0.9
    assert after >= before - 0.05 - 1e-9


def test_the_history_is_complete(compressed):
    result = compressed[0]
    assert [r.accepted for r in result.history] == [True, True]
    assert result.plan is result.history[-1].plan
    limits = [r.budget.macs for r in result.history]
    assert 0.5 < limits[0] < 0.8
    assert limits[1] == 0.5
    for entry in result.history:
        assert entry.plan.met
        assert entry.reason is None
        for figures in (entry.factorized, entry.recalibrated, entry.fine_tuned):
            assert set(figures) == {"accuracy", "agreement", "kl", "samples"}
        better = entry.fine_tuned["accuracy"] >= entry.recalibrated["accuracy"]
        assert entry.kept == ("fine_tuned" if better else "recalibrated")
        assert entry.learning_rate == 3e-3
    again = json.loads(json.dumps([r.to_dict() for r in result.history]))
    assert again[1]["budget"] == {"macs": 0.5}
    assert again[0]["plan"]["met"] is True
    assert "rounds: 2 accepted, 0 rolled back" in result.summary()
    assert result.summary().endswith("target met")


def test_ranks_fall_from_round_to_round(compressed):
    first, second = (r.plan for r in compressed[0].history)
    earlier = {row.name: row.ranks for row in first.rows if row.ranks}
    assert earlier
    for row in second.rows:
        if row.name in earlier:
            assert all(
                a <= b for a, b in zip(row.ranks, earlier[row.name], strict=True)
            )
    assert second.before == first.after


def test_the_original_is_untouched(compressed, network):
    result, _, before, after = compressed
    assert_same(before[0], after[0])
    assert before[1] == after[1]
    assert not network.get_layer("norm1").trainable
    assert not result.model.get_layer("norm1").trainable
    ours = {id(v) for v in network.variables}
    assert not ours & {id(v) for v in result.model.variables}


def test_progress_counts_over_all_rounds(compressed):
    # Within an epoch it may be told as well, as the clock will have it.
    calls = [call for call in compressed[1] if call[0] == int(call[0])]
    assert [(done, total) for done, total, _ in calls] == [(i, 8) for i in range(1, 9)]
    assert [figures["round"] for *_, figures in calls] == [1] * 4 + [2] * 4
    assert all("kl" in figures for *_, figures in calls)


def test_without_training_nothing_is_accepted(small, data):
    result = compress(small, *data, target=Budget(macs=0.02), max_drop=0.0, **IDLE)
    assert not result.target_met
    assert result.plan is None
    assert [r.accepted for r in result.history] == [False] * 2
    for entry in result.history:
        assert entry.reason.startswith("accuracy is worse by 0.")
        assert entry.reason.endswith("allowed 0.0")
    # The retry goes half as far, on a scale of ratios.
    steps = [-np.log(r.budget.macs) for r in result.history]
    np.testing.assert_allclose(steps, -np.log(0.02) / 2 * np.array([1, 0.5]))
    # What comes back is a working copy.
    assert result.model is not small
    assert result.cost == result.original_cost == model_cost(small)
    assert_same(state_of(small), state_of(result.model))
    images = data[1][0][:8]
    np.testing.assert_allclose(result.model(images), small(images), atol=1e-6)
    assert "rounds: 0 accepted, 2 rolled back" in result.summary()
    assert result.summary().endswith("target NOT met")


def test_a_retry_that_is_good_is_kept(small, data):
    result = compress(
        small,
        *data,
        target=Budget(macs=0.2),
        max_drop=0.1,
        retries=3,
        rounds=1,
        **IDLE,
    )
    accepted = [r.accepted for r in result.history]
    assert accepted == [False] * (len(accepted) - 1) + [True]
    assert len(accepted) > 1
    assert result.plan is result.history[-1].plan
    assert result.cost == result.plan.after
    # Half of the way is not the target.
    assert not result.target_met


HALF = {"target": Budget(macs=0.5), "max_drop": 1.0, "rounds": 1}


def run(model, data, seed, **options):
    options |= {"epochs": 2, "steps_per_epoch": 4, "learning_rate": 1e-2}
    return compress(model, *data, seed=seed, **HALF, **options, **QUICK)


@pytest.fixture(scope="module")
def measured(network, data, tmp_path_factory):
    """A run of seed 0, and the folder that keeps what it measured."""
    folder = tmp_path_factory.mktemp("cache") / "measured"
    return run(network, data, 0, cache=folder), folder


def test_one_seed_gives_one_result(measured, network, data):
    first = measured[0]
    second, other = (run(network, data, seed) for seed in (0, 1))
    for a, b in zip(state_of(first.model), state_of(second.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.history[0].fine_tuned == second.history[0].fine_tuned
    assert first.history[0].plan == second.history[0].plan
    differences = zip(state_of(first.model), state_of(other.model), strict=True)
    assert max(np.abs(a - b).max() for a, b in differences) > 1e-4


def test_datasets_of_known_length_need_no_steps(small, data):
    train, validation = (
        tf.data.Dataset.from_tensor_slices(part).batch(288, drop_remainder=True)
        for part in data
    )
    calls = []
    result = compress(
        small,
        train,
        validation,
        target=Budget(params=0.6),
        max_drop=1.0,
        rounds=1,
        epochs=2,
        progress=lambda *arguments: calls.append(arguments),
        **QUICK,
    )
    assert result.target_met
    assert len([done for done, _, _ in calls if done == int(done)]) == 2


@pytest.mark.parametrize("endless", [True, False])
def test_data_of_unknown_length_need_steps(small, data, endless):
    train = tf.data.Dataset.from_tensor_slices(data[0]).batch(96)
    train = train.repeat() if endless else train.filter(lambda *_: True)
    options = {"target": Budget(macs=0.6), "max_drop": 1.0, "rounds": 1, **QUICK}
    with pytest.raises(TfcompressError, match="do not tell their length: give steps"):
        compress(small, train, data[1], **options)
    with pytest.raises(TfcompressError, match="do not tell their length"):
        compress(small, train, data[1], epochs=2, **options)
    if endless:
        assert compress(small, train, data[1], steps=3, **options).target_met


def test_nothing_to_compress_says_why(small, data):
    keep = VBMF(keep=("*",), weakening=None)
    with pytest.raises(NothingToCompressError) as caught:
        compress(small, *data, target=Budget(macs=0.5), selector=keep, **IDLE)
    message = str(caught.value)
    assert "\n" not in message
    assert "'digits' can be made smaller" in message
    assert "kept as asked" in message
    assert "Choose a smaller budget" in message


def test_nothing_to_compress_in_a_factorized_model(small, data):
    start = factorize(small, {"hidden": ("FactorizedDense", (8,))})
    selector = Fixed(ranks={"hidden": 8})
    with pytest.raises(NothingToCompressError, match="factorized already"):
        compress(start, *data, target=Budget(macs=0.9), selector=selector, **IDLE)


def test_targets_are_relative_to_the_model_given(network, data):
    start = factorize(
        network,
        {"second": ("Tucker2Conv2D", (8, 8)), "hidden": ("FactorizedDense", (16,))},
    )
    result = compress(
        start, *data, target=Budget(macs=0.6), max_drop=1.0, rounds=1, **IDLE
    )
    assert result.target_met
    assert result.original_cost == model_cost(start)
    assert result.cost.macs <= 0.6 * model_cost(start).macs
    assert result.history[0].budget == Budget(macs=0.6)


def test_vbmf_keeps_the_first_noise_variance(small, data):
    selector = VBMF(weakening=0.5, min_rank=1)
    planted = factorize(small, {})
    rng = np.random.default_rng(0)
    kernel = planted.get_layer("hidden").kernel
    left, right = (np.linalg.qr(rng.normal(size=(n, 6)))[0] for n in kernel.shape)
    signal = 6.0 * left @ right.T
    kernel.assign(signal + 0.05 * rng.normal(size=kernel.shape))
    # Factors that know the data are no truncations of the weights.
    options = IDLE | {"target": Budget(macs=0.1), "max_drop": 1.0}
    options["calibration_steps"] = 0
    result = compress(planted, *data, selector=selector, rounds=3, **options)
    assert len(result.history) >= 3
    notes = [r.plan.scores()["hidden"] for r in result.history]
    assert all(n["noise_variance"] == notes[0]["noise_variance"] for n in notes)
    # 32 -> 19 -> 12 -> 9: toward the planted rank, round by round.
    assert [n["extreme_ranks"] for n in notes] == [[6]] * len(notes)
    hidden = dict(leaves(result.model))["hidden"]
    assert isinstance(hidden, FactorizedLayer)
    expected = 32
    for _ in result.history:
        expected = int(expected - 0.5 * (expected - 6))
    assert hidden.ranks == (expected,)


def test_another_teacher_can_teach(small, data):
    other = factorize(small, {})
    other.get_layer("logits").bias.assign(np.eye(10)[3] * 100.0)
    result = compress(
        small, *data, target=Budget(macs=0.7), teacher=other, max_drop=1.0, **IDLE
    )
    assert result.original["agreement"] < 0.2


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"retries": -1}, {"max_drop": -0.01}]
)
def test_bad_arguments(small, data, options):
    ((name, value),) = options.items()
    with pytest.raises(TfcompressError, match=f"Received: .*{name}={value}"):
        compress(small, *data, target=Budget(macs=0.5), **options)


def test_as_batches_of_arrays(data):
    images, labels = (part[:50] for part in data[0])
    plain = list(as_batches((images, labels), 16, seed=None))
    assert [len(batch[1]) for batch in plain] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate([b[1] for b in plain]), labels)
    shuffled = [list(as_batches((images, labels), 16, seed=s)) for s in (0, 0, 1)]
    # Full batches only: batch normalization would suffer from one of two.
    assert [len(batch[1]) for batch in shuffled[0]] == [16, 16, 16]
    orders = [np.concatenate([b[0] for b in each]) for each in shuffled]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    (whole,) = as_batches((images, labels), 64, seed=0)
    assert len(whole[1]) == 50


def test_as_batches_takes_datasets_as_they_are(data):
    dataset = tf.data.Dataset.from_tensor_slices(data[0]).batch(8)
    assert as_batches(dataset, 64, seed=0) is dataset


@pytest.mark.parametrize("wrong", [None, [1, 2, 3], np.zeros((4, 8, 8, 1)), (1, 2, 3)])
def test_as_batches_refuses_the_rest(wrong):
    with pytest.raises(TfcompressError, match="Received: "):
        as_batches(wrong, 8, seed=None)


def test_the_default_knows_data_and_sensitivity(compressed):
    first = compressed[0].history[0]
    notes = [row.notes for row in first.plan.rows if row.changed]
    assert notes
    assert all(note["loss"] >= 0.0 for note in notes)
    assert all(row.ranks[0] % 4 == 0 for row in first.plan.rows if row.changed)


def test_calibration_data_pay_at_the_same_ranks(small, data):
    """Data-aware factors lose less than plain ones at the same ranks."""
    options = {"target": Budget(macs=0.4), "max_drop": 1.0, "rounds": 1, **IDLE}
    options["selector"] = Energy()
    plain = compress(small, *data, **options | {"calibration_steps": 0})
    aware = compress(small, *data, **options)
    assert plain.plan.choices() == aware.plan.choices()
    plain_kl, aware_kl = (r.history[0].factorized["kl"] for r in (plain, aware))
    assert aware_kl < 0.8 * plain_kl


def test_a_second_run_reads_what_the_first_measured(measured, network, data):
    first, folder = measured
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    second = compress(network, *data, cache=folder, **HALF, **IDLE)
    assert kept.stat().st_mtime_ns == before
    assert second.plan == first.plan
