"""Which rows of a batch are looked at where there are more than are wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Sample(NamedTuple):
    """A random sample of rows, spread evenly: one from each of `limit` stretches.

    A regular grid would see the same places of every image, and where its step divides
    the width of a map only a few columns of it.

    Attributes:
        limit: rows wanted at most.
        seed: number or int32 scalar; equal seeds take equal places.
    """

    limit: int
    seed: Any = 0

    def places(self, count: Any) -> Any:
        """Indices of the rows to take, not falling: int64 of shape `(<= limit,)`.

        Args:
            count: number of rows there are, int32 scalar.
        """
        taken = tf.minimum(count, self.limit)
        seed = tf.stack([tf.cast(self.seed, tf.int32), 0])
        within = tf.random.stateless_uniform((taken,), seed, dtype=tf.float64)
        length = tf.cast(count, tf.float64) / tf.cast(taken, tf.float64)
        places = (tf.range(taken, dtype=tf.float64) + within) * length
        return tf.minimum(tf.cast(places, tf.int64), tf.cast(count, tf.int64) - 1)


def sampled(rows: Any, sample: Sample | None) -> Any:
    """The rows `(count, width)` of a sample; all of them without one."""
    if sample is None:
        return rows
    return tf.gather(rows, sample.places(tf.shape(rows)[0]))
