"""Random numbers as a pure function of (seed, epoch, sample): Philox, vectorized.

TensorFlow's stateless generators take one key for a whole tensor: what a sample gets
then depends on its place in the batch. Here each sample has its own counter, so its
draws stay the same in any batch, on any replica, in any order. All integer arithmetic:
the bits do not depend on the device or on XLA.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Any, ...], key: tuple[Any, Any]) -> tuple[Any, ...]:
    """Philox4x32-10: 128 random bits for each counter.

    Args:
        counter: four uint32 tensors of one shape (or that broadcast).
        key: two uint32 tensors.

    Returns:
        Four uint32 tensors.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    words = _rounds(counter, key)
    shape = functools.reduce(
        tf.broadcast_static_shape, [x.shape for x in (*counter, key[0])]
    )
    for word in words:
        word.set_shape(shape)
    return words


# A function of its own is traced once for all steps that draw, not in each of them.
@tf.function(reduce_retracing=True, autograph=False)
def _rounds(counter: tuple[Any, ...], key: tuple[Any, Any]) -> tuple[Any, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    m0, m1 = (tf.constant(m, tf.uint64) for m in _MULTIPLIERS)
    w0, w1 = (tf.constant(w, tf.uint32) for w in _INCREMENTS)
    for _ in range(_ROUNDS):
        high0, low0 = _halves(m0 * tf.cast(c0, tf.uint64))
        high1, low1 = _halves(m1 * tf.cast(c2, tf.uint64))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + w0, k1 + w1
    return c0, c1, c2, c3


def _halves(product: Any) -> tuple[Any, Any]:
    high = tf.bitwise.right_shift(product, tf.constant(32, tf.uint64))
    return tf.cast(high, tf.uint32), tf.cast(product, tf.uint32)


def uniform(samples: Any, key: Any, *, stream: int, count: int) -> Any:
    """Uniform numbers in [0, 1) for each sample.

    Args:
        samples: integer tensor `(n,)`: which samples.
        key: integer tensor `(2,)`, such as (seed, epoch), or `(2, n)` where samples
            are of different epochs.
        stream: what the numbers are for; streams are independent.
        count: numbers per sample.

    Returns:
        Float32 tensor `(count, n)`, multiples of 2**-24.
    """
    key = _bits(key)
    samples = _bits(samples)[None]
    blocks = tf.range(-(-count // 4), dtype=tf.int32)[:, None]
    zeros = tf.zeros_like(samples)
    counter = (samples, zeros + key[1], zeros + _bits(blocks), zeros + _bits(stream))
    shape = tf.shape(counter[2])
    counter = tuple(tf.broadcast_to(c, shape) for c in counter)
    words = philox(counter, (key[0], tf.constant(0, tf.uint32)))
    # The upper 24 bits: exact in float32 with XLA and without.
    bits = tf.reshape(tf.stack(words, 1), (-1, tf.size(samples)))
    upper = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(upper, tf.float32)[:count] * 2.0**-24


def _bits(values: Any) -> Any:
    """Integers as uint32: negative ones and those beyond 32 bits wrap around."""
    return tf.cast(tf.cast(values, tf.int64), tf.uint32)
