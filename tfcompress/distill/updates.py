"""One step of an optimizer: the same on one device and on several replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def apply_gradients(
    optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
) -> None:
    """Applies the sum of all replicas' gradients, clipped as a whole.

    Keras clips what each replica has before it adds them up, which is another step
    than that of one device. Here they are added first.

    Args:
        optimizer: a Keras optimizer, within a replica of `tf.distribute` or without.
        gradients: of a loss divided by the number of replicas.
        variables: Keras variables.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1 and not optimizer.gradient_accumulation_steps:
        context = tf.distribute.get_replica_context()
        found = [i for i, g in enumerate(gradients) if g is not None]
        total = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [gradients[i] for i in found]
        )
        scale = optimizer.loss_scale_factor or 1.0
        total = _clipped(optimizer, [g / scale for g in total])
        # The optimizer adds them up once more.
        shares = dict(zip(found, total, strict=True))
        gradients = [
            shares[i] * scale / replicas if i in shares else None
            for i in range(len(gradients))
        ]
    optimizer.apply(gradients, variables)


def _clipped(optimizer: Any, gradients: list[Any]) -> list[Any]:
    if optimizer.global_clipnorm:
        return tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)[0]
    if optimizer.clipnorm:
        return [tf.clip_by_norm(g, optimizer.clipnorm) for g in gradients]
    if optimizer.clipvalue:
        bound = optimizer.clipvalue
        return [tf.clip_by_value(g, -bound, bound) for g in gradients]
    return gradients
