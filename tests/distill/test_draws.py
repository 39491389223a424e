"""Random numbers for each sample: Philox, and what uniformity and purity demand."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.distill.draws import philox, uniform


def words(*values):
    return tuple(tf.constant(v, tf.uint32) for v in values)


# Known answers of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
@pytest.mark.parametrize("jit", [False, True])
def test_known_answers(counter, key, expected, jit):
    run = tf.function(lambda c, k: philox(c, k), jit_compile=jit)
    found = run(words(*counter), words(*key))
    assert " ".join(f"{int(word):08x}" for word in found) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=7, unique=True),
    st.integers(0, 5),
    st.integers(1, 9),
)
def test_a_draw_belongs_to_its_sample(seed, epoch, samples, stream, count):
    key = tf.constant([seed, epoch], tf.int32)
    together = uniform(tf.constant(samples), key, stream=stream, count=count).numpy()
    assert together.shape == (count, len(samples))
    assert (together >= 0).all() and (together < 1).all()
    backwards = uniform(tf.constant(samples[::-1]), key, stream=stream, count=count)
    np.testing.assert_array_equal(together[:, ::-1], backwards)
    alone = uniform(tf.constant(samples[-1:]), key, stream=stream, count=count)
    np.testing.assert_array_equal(together[:, -1:], alone)
    # Epochs of each sample give what one epoch for all gives.
    keys = tf.stack([tf.fill((len(samples),), part) for part in (seed, epoch)])
    each = uniform(tf.constant(samples), keys, stream=stream, count=count)
    np.testing.assert_array_equal(together, each)


def test_seeds_epochs_samples_and_streams_differ():
    def draw(seed, epoch, sample, stream):
        key = tf.constant([seed, epoch], tf.int32)
        return uniform(tf.constant([sample]), key, stream=stream, count=8).numpy()

    base = draw(1, 2, 3, 4)
    for other in ((0, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 0), (2, 1, 3, 4)):
        assert not np.isin(draw(*other), base).any()


def test_numbers_are_uniform_and_independent():
    draw = uniform(tf.range(20000), tf.constant([0, 1]), stream=0, count=8).numpy()
    # Five standard errors of the mean, the variance and the correlation.
    assert np.abs(draw.mean(1) - 0.5).max() < 5 * np.sqrt(1 / 12 / 20000)
    assert np.abs(draw.var(1) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / 20000)
    correlation = np.corrcoef(draw) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(20000)
    serial = np.corrcoef(draw[0, 1:], draw[0, :-1])[0, 1]
    assert abs(serial) < 5 / np.sqrt(20000)


def test_xla_gives_the_same_numbers_bit_for_bit():
    samples, key = tf.range(100), tf.constant([7, -1])
    found = [
        tf.function(lambda s, k: uniform(s, k, stream=1, count=5), jit_compile=jit)(
            samples, key
        )
        for jit in (False, True)
    ]
    np.testing.assert_array_equal(*found)
