"""Numbered samples: the same in every run, another order in every epoch."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.distill import Samples, numbered
from tfcompress.distill.samples import as_samples
from tfcompress.errors import TfcompressError

X = np.arange(24, dtype="float32").reshape(12, 2)
Y = np.arange(12)


def seen(data):
    """Per batch: epochs, numbers, inputs and labels."""
    return [
        (*map(np.asarray, (x.epoch, x.sample, x.inputs)), y.numpy()) for x, y in data
    ]


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_numbers_belong_to_their_samples(kind):
    if kind == "arrays":
        data = numbered(X, Y, batch_size=4, epochs=3, seed=5)
    else:
        single = tf.data.Dataset.from_tensor_slices((X, Y))
        data = numbered(single, batch_size=4, epochs=3, seed=5)
    batches = seen(data)
    assert len(batches) == 9
    for epoch, number, inputs, labels in batches:
        np.testing.assert_array_equal(inputs, X[number])
        np.testing.assert_array_equal(labels, number)
        assert len(set(epoch)) == 1
    orders = [np.concatenate([b[1] for b in batches[i : i + 3]]) for i in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == list(range(12))
    assert not np.array_equal(orders[0], orders[1])
    again = seen(data)
    for one, two in zip(batches, again, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("given_seed", [0, 1])
def test_the_order_is_not_that_of_the_global_seed(given_seed):
    single = tf.data.Dataset.from_tensor_slices((X, Y))
    before = seen(numbered(single, batch_size=4, epochs=2, seed=5))
    tf.random.set_seed(given_seed)
    after = seen(numbered(single, batch_size=4, epochs=2, seed=5))
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[1], two[1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 5), st.booleans())
def test_a_resumed_run_goes_on_with_the_same_order(seed, epoch, arrays):
    source = (X, Y) if arrays else (tf.data.Dataset.from_tensor_slices((X, Y)),)
    whole = seen(numbered(*source, batch_size=5, epochs=epoch + 2, seed=seed))
    rest = seen(numbered(*source, batch_size=5, epochs=2, seed=seed, first_epoch=epoch))
    for one, two in zip(whole[2 * epoch :], rest, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_seed_keeps_the_order_and_remainders_are_kept_on_request():
    data = numbered(X, batch_size=5, epochs=1, seed=None, drop_remainder=False)
    numbers = [x.sample.numpy().tolist() for (x,) in data]
    assert numbers == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_structures_and_endless_data():
    data = numbered({"a": X, "b": Y}, {"out": Y}, batch_size=4)
    x, y = next(iter(data.skip(100)))
    assert int(x.epoch[0]) == 33
    np.testing.assert_array_equal(x.inputs["b"], x.sample)
    np.testing.assert_array_equal(y["out"], x.sample)


def test_bad_data():
    endless = tf.data.Dataset.from_tensor_slices(X).repeat()
    with pytest.raises(TfcompressError, match="known length"):
        numbered(endless, batch_size=2)
    with pytest.raises(TfcompressError, match="12 samples, batch_size=13"):
        numbered(X, batch_size=13)
    with pytest.raises(TfcompressError, match="labels in itself"):
        numbered(tf.data.Dataset.from_tensor_slices(X), Y, batch_size=2)


def test_other_inputs_are_samples_of_their_step():
    found = as_samples(tf.zeros((3, 2)), tf.constant(7))
    assert found.epoch.numpy().tolist() == [7, 7, 7]
    assert found.sample.numpy().tolist() == [0, 1, 2]
    same = Samples(X, Y, Y)
    assert as_samples(same, tf.constant(7)) is same
