"""Which rows are looked at, and that patches are what a convolution sees."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.layers.conv import patches
from tfcompress.layers.sampling import Sample, sampled


@given(count=st.integers(1, 300), limit=st.integers(1, 300), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_one_place_from_each_stretch(count, limit, seed):
    places = Sample(limit, seed).places(tf.constant(count)).numpy()
    assert len(places) == min(count, limit)
    # Where two stretches meet in a row, it may come twice.
    assert np.all(np.diff(places) >= 0)
    stretches = np.floor((places + 0.5) * len(places) / count)
    # A stretch begins and ends between two rows: at most one row off.
    assert np.all(np.abs(stretches - np.arange(len(places))) <= 1)
    if limit >= count:
        np.testing.assert_array_equal(places, np.arange(count))


def test_equal_seeds_take_equal_places():
    def places(seed):
        return Sample(50, seed).places(tf.constant(1000)).numpy()

    np.testing.assert_array_equal(places(3), places(tf.constant(3)))
    assert not np.array_equal(places(3), places(4))


def test_every_column_of_a_map_is_seen():
    """A grid whose step divides the width would only ever see some of them."""
    width, count, limit = 28, 128 * 28 * 28, 256
    seen = np.concatenate(
        [Sample(limit, seed).places(tf.constant(count)) for seed in range(64)]
    )
    columns = np.bincount(seen % width, minlength=width)
    rows = np.bincount(seen // width % width, minlength=width)
    expected = limit * 64 / width
    for found in (columns, rows):
        # Chi-squared of 27 degrees of freedom stays below 55 in 999 of 1000 cases.
        assert np.sum((found - expected) ** 2 / expected) < 55


def test_rows_of_unknown_number_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((), "int32")])
    def take(rows, seed):
        return sampled(rows, Sample(10, seed))

    rows = np.arange(300, dtype="float32").reshape(100, 3)
    found = take(rows, 1).numpy()
    assert found.shape == (10, 3)
    np.testing.assert_array_equal(found[:, 1] - found[:, 0], np.ones(10))
    assert take(rows[:4], 1).shape == (4, 3)
    np.testing.assert_array_equal(sampled(tf.constant(rows), None), rows)


CONVS = {
    "1D causal": (
        keras.layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
        (2, 11, 3),
    ),
    "1D strided": (keras.layers.Conv1D(5, 4, strides=3, padding="same"), (2, 11, 3)),
    "2D valid": (keras.layers.Conv2D(5, (3, 2)), (2, 7, 8, 3)),
    "2D same strided": (
        keras.layers.Conv2D(5, 3, strides=(2, 3), padding="same"),
        (2, 7, 8, 3),
    ),
    "2D dilated": (
        keras.layers.Conv2D(5, 3, dilation_rate=2, padding="same"),
        (2, 7, 8, 3),
    ),
    "2D 1x1 strided": (keras.layers.Conv2D(5, 1, strides=2), (2, 7, 8, 3)),
    "3D": (keras.layers.Conv3D(5, 2, strides=(1, 2, 1)), (2, 4, 5, 6, 3)),
}


@pytest.mark.parametrize("name", CONVS)
def test_patches_times_the_kernel_are_the_convolution(name):
    layer, shape = CONVS[name]
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = np.array(layer(x)).reshape(-1, 5)
    matrix = np.array(layer.kernel).reshape(-1, 5)
    bias = np.array(layer.bias)
    whole = patches(tf.constant(x), layer).numpy()
    np.testing.assert_allclose(whole @ matrix + bias, expected, atol=1e-5)
    for seed in (0, 1):
        sample = Sample(7, seed)
        few = patches(tf.constant(x), layer, sample).numpy()
        places = sample.places(tf.constant(len(expected)))
        np.testing.assert_array_equal(few, whole[places])
