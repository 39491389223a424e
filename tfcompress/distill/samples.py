"""Numbered samples: data that say, for each sample, which it is and of which epoch.

What views need to be the same in any order of the data, and a logit cache to be right.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from tfcompress.errors import TfcompressError

# The seed of graphs where none is set, as in TensorFlow.
_GRAPH_SEED = 87654321


class Samples(NamedTuple):
    """Inputs with their numbers; stands where a trainer expects inputs.

    Attributes:
        inputs: as the models take them.
        epoch: int32 `(batch,)`.
        sample: int32 `(batch,)`, from 0, the same in every epoch.
        logits: cached outputs of the teacher, one `(batch, ..., classes)` for each
            output; empty where there are none.

    Example:
        >>> (first,) = next(iter(numbered(images, batch_size=4, seed=None)))
        >>> first.epoch.numpy().tolist(), first.sample.numpy().tolist()
        ([0, 0, 0, 0], [0, 1, 2, 3])
    """

    inputs: Any
    epoch: Any
    sample: Any
    logits: tuple[Any, ...] = ()


def numbered(
    inputs: Any,
    labels: Any = None,
    *,
    batch_size: int,
    seed: int | None = 0,
    first_epoch: int = 0,
    epochs: int | None = None,
    replay: int | None = None,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    """Endless batches of numbered samples, shuffled by a function of (seed, epoch).

    Args:
        inputs: arrays whose first axis are the samples, any structure; or a
            `tf.data.Dataset` of single samples `inputs` or `(inputs, labels)` that has
            a known length and always the same order.
        labels: likewise, or None; not beside a dataset.
        batch_size: samples a batch.
        seed: of the order in each epoch; None keeps the stored order.
        first_epoch: where to begin: a resumed training goes on with the order it would
            have had.
        epochs: how many; None: no end.
        replay: begin anew after so many epochs, with the same orders and views, as
            cached logits of so many epochs need it.
        drop_remainder: leave out a last batch that is not full.

    Returns:
        A dataset of `(Samples,)`, or `(Samples, labels)`.

    Raises:
        TfcompressError: data of unknown length, or fewer samples than a full batch.

    Example:
        >>> import numpy as np
        >>> data = numbered(np.zeros((6, 2)), np.arange(6), batch_size=3, epochs=1)
        >>> sorted(int(n) for x, y in data for n in x.sample)
        [0, 1, 2, 3, 4, 5]
    """
    single = _single_samples(inputs, labels)
    count = int(single.cardinality())
    if count < 1:
        raise TfcompressError(
            "Samples can be numbered in data of known length: use "
            "data.apply(tf.data.experimental.assert_cardinality(n))."
        )
    if drop_remainder and count < batch_size:
        raise TfcompressError(
            f"There is not one full batch. Received: {count} samples, "
            f"batch_size={batch_size}"
        )
    source = None
    if not isinstance(inputs, tf.data.Dataset):
        # Here, and not in the epoch's graph, where they would become constants.
        to_tensors = functools.partial(tf.nest.map_structure, tf.convert_to_tensor)
        source = (to_tensors(inputs), None if labels is None else to_tensors(labels))
    if epochs is None:
        counted = tf.data.Dataset.counter(first_epoch)
    else:
        counted = tf.data.Dataset.range(first_epoch, first_epoch + epochs)

    def one_epoch(epoch: Any) -> tf.data.Dataset:
        epoch = tf.cast(epoch, tf.int32) % (replay or 2**31 - 1)
        if source is not None:
            return _by_index(source, count, epoch, seed, batch_size, drop_remainder)
        shown = single.enumerate()
        if seed is not None:
            # The seeds are tensors: another order in each epoch, the same in each run.
            draw = tf.random.stateless_uniform(
                (), (seed, epoch), 0, 2**31 - 1, tf.int32, alg="philox"
            )
            # Of this graph: `tf.random.set_seed` elsewhere must not change the order,
            # and with a seed of 0 it fails.
            if not tf.executing_eagerly():
                tf.compat.v1.set_random_seed(_GRAPH_SEED)
            shown = shown.shuffle(
                count, seed=tf.cast(draw, tf.int64), reshuffle_each_iteration=False
            )
        shown = shown.batch(batch_size, drop_remainder=drop_remainder)
        return shown.map(lambda number, data: _sample(data, epoch, number))

    return counted.flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def _by_index(
    source: tuple[Any, Any],
    count: int,
    epoch: Any,
    seed: int | None,
    batch_size: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """One epoch of arrays: whole batches are gathered, no sample is touched alone."""
    inputs, labels = source
    order = tf.range(count)
    if seed is not None:
        order = tf.random.experimental.stateless_shuffle(order, (seed, epoch))
    indices = tf.data.Dataset.from_tensor_slices(order)
    indices = indices.batch(batch_size, drop_remainder=drop_remainder)

    def gather(index: Any) -> Any:
        def take(x: Any) -> Any:
            return tf.gather(x, index)

        samples = Samples(
            tf.nest.map_structure(take, inputs), tf.fill(tf.shape(index), epoch), index
        )
        if labels is None:
            return (samples,)
        return samples, tf.nest.map_structure(take, labels)

    return indices.map(gather, num_parallel_calls=tf.data.AUTOTUNE)


def _single_samples(inputs: Any, labels: Any) -> tf.data.Dataset:
    if isinstance(inputs, tf.data.Dataset):
        if labels is not None:
            raise TfcompressError("A dataset has its labels in itself: labels=None.")
        return inputs
    return tf.data.Dataset.from_tensor_slices(
        inputs if labels is None else (inputs, labels)
    )


def _sample(data: Any, epoch: Any, number: Any) -> Any:
    number = tf.cast(number, tf.int32)
    epoch = tf.fill(tf.shape(number), epoch)
    if isinstance(data, tuple) and len(data) == 2:
        return Samples(data[0], epoch, number), data[1]
    return (Samples(data, epoch, number),)


def as_samples(inputs: Any, step: Any) -> Samples:
    """Inputs that are not numbered count as samples of their own step.

    The place in the global batch is their number, on however many replicas.

    Args:
        inputs: `Samples`, or inputs.
        step: int32 scalar.
    """
    if isinstance(inputs, Samples):
        return inputs
    count = tf.shape(tf.nest.flatten(inputs)[0])[0]
    context = tf.distribute.get_replica_context()
    replica = 0 if context is None else context.replica_id_in_sync_group
    places = tf.cast(replica, tf.int32) * count + tf.range(count)
    return Samples(inputs, tf.fill((count,), step), places)


def inputs_only(data: Any) -> Any:
    """Data without the numbers: what a model itself takes."""
    return data.inputs if isinstance(data, Samples) else data
