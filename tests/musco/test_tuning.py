"""How long and how fast rounds are fine-tuned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress
from tfcompress.distill import Matching
from tfcompress.errors import TfcompressError
from tfcompress.musco import FineTuning
from tfcompress.musco.tuning import PROBED_RATES, probe_learning_rate
from tfcompress.ranks import Budget


def data(count=None):
    dataset = tf.data.Dataset.range(7)
    if count is None:
        return dataset.repeat()
    return dataset.repeat().take(count) if count else dataset.filter(lambda _: True)


@pytest.mark.parametrize(
    ("options", "batches", "expected"),
    [
        ({}, 7, (10, 7)),
        ({"epochs": 3}, 7, (3, 7)),
        ({"epochs": 3, "steps_per_epoch": 5}, None, (3, 5)),
        ({"epochs": 2, "steps": 21}, 7, (3, 7)),
        ({"steps": 300}, None, (100, 3)),
    ],
)
def test_length(options, batches, expected):
    assert FineTuning(**options).length(data(batches)) == expected


@pytest.mark.parametrize("batches", [None, 0])
def test_data_of_unknown_length(batches):
    with pytest.raises(TfcompressError, match="do not tell their length"):
        FineTuning(epochs=3).length(data(batches))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("by", "magic"),
        ("learning_rate", 0.0),
        ("learning_rate", "guess"),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("steps", -1),
        ("batch_size", 0),
        ("weight_decay", -1e-4),
        ("label_weight", -1.0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
    ],
)
def test_bad_options(name, value):
    with pytest.raises(TfcompressError, match="Received: "):
        FineTuning(**{name: value})


@pytest.fixture(scope="module")
def problem():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    return model, x, (x @ np.ones((8, 4))).astype("float32")


def probe(problem, scores=None, **options):
    model, x, y = problem
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(64).repeat()

    def make(candidate):
        return Matching(candidate, label_weight=1.0), {"loss": "mse"}

    def score(candidate):
        found = -float(np.mean(np.square(candidate(x) - y)))
        if scores is not None:
            scores.append(found)
        return found

    return probe_learning_rate(
        model, make, batches, score, jit_compile=False, **options
    )


def test_the_probe_takes_the_rate_that_comes_furthest(problem):
    before = [np.array(w) for w in problem[0].weights]
    scores = []
    # So far from the goal that faster is better, until it is too fast.
    assert probe(problem, scores) == max(PROBED_RATES)
    assert scores == sorted(scores)
    assert probe(problem, rates=(1e-3, 3e-2, 1e4)) == 3e-2
    for old, now in zip(before, problem[0].weights, strict=True):
        np.testing.assert_array_equal(old, now)


def test_the_probe_finds_the_same_twice(problem):
    """Each rate starts from the same weights, whatever was tried before it."""
    first, second = [], []
    probe(problem, first, rates=(1e-3, 3e-2), steps=6)
    probe(problem, second, rates=(3e-2, 1e-3), steps=6)
    assert first == second[::-1]
    assert first[0] != first[1]


def test_rates_that_break_the_network_lose(problem):
    assert probe(problem, rates=(1e30, 1e-4)) == 1e-4


@pytest.mark.parametrize("by", ["distillation", "labels"])
def test_a_probed_rate_trains_as_the_same_rate_given(by):
    """The probe leaves nothing behind: neither in the weights nor in the seeds."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(192, 12)).astype("float32")
    y = np.argmax(x[:, :3], -1)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(32, activation="relu"), layers.Dense(3)]
    )
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)

    def only_round(rate):
        result = tfcompress.compress(
            model,
            batches,
            batches,
            target=Budget(macs=0.6),
            max_drop=1.0,
            rounds=1,
            epochs=1,
            by=by,
            learning_rate=rate,
            calibration_steps=0,
            jit_compile=False,
        )
        return result.history[0]

    probed = only_round("probe")
    assert probed.learning_rate in PROBED_RATES
    if by == "distillation":
        # In so few steps the slowest comes nowhere near the teacher.
        assert probed.learning_rate > min(PROBED_RATES)
    assert probed.fine_tuned == only_round(probed.learning_rate).fine_tuned


def test_unknown_options_are_named():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    x, y = np.zeros((8, 4), "float32"), np.zeros(8, int)
    with pytest.raises(TypeError, match=r"learning_rates.*fine-tuning takes by, epo"):
        tfcompress.compress(
            model, (x, y), (x, y), target=Budget(macs=0.5), learning_rates=1e-3
        )
