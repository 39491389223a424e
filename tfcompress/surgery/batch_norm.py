"""Batch-norm statistics brought up to date after surgery."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tfcompress.surgery.replace import copy_model, replace_layers
from tfcompress.trace import leaves


@keras.saving.register_keras_serializable(package="tfcompress.surgery")
class _Recalibrated(keras.layers.BatchNormalization):
    """Batch normalization that always uses, and averages, the batch's statistics."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True, mask=mask)


def recalibrate_batch_norm(
    model: keras.Model, batches: Iterable[Any], *, steps: int = 32
) -> keras.Model:
    """A copy whose batch-norm statistics are averages over the given batches.

    Factorization shifts the activations; stale statistics then cost more accuracy
    than the lost rank (EagleEye, Li et al. 2020, section 3.3). Only batch
    normalization sees batch statistics: dropout and the like stay in inference mode.

    Args:
        model: a built Sequential or Functional model; it is not changed.
        batches: inputs, or `(inputs, ...)` tuples, of shape `(batch, ...)`.
        steps: number of batches to use at most.

    Returns:
        A new model; a plain copy where it has no batch normalization.

    Raises:
        ValueError: no batches.
        UnsupportedModelError: the model cannot be rebuilt.

    Example:
        >>> norm = keras.layers.BatchNormalization()
        >>> net = keras.Sequential([keras.Input((2,)), norm])
        >>> new = recalibrate_batch_norm(net, [np.ones((4, 2), "float32")])
        >>> np.asarray(new.layers[0].moving_mean)
        array([1., 1.], dtype=float32)
    """
    new = copy_model(model)
    norms = {
        path: layer
        for path, layer in leaves(new)
        if type(layer) is keras.layers.BatchNormalization
    }
    if not norms:
        return new
    stand_ins = {}
    for path, layer in norms.items():
        config = layer.get_config() | {"trainable": True}
        stand_in = _Recalibrated.from_config(config)
        stand_in.build(layer._build_shapes_dict["input_shape"])
        for old, fresh in zip(layer.variables, stand_in.variables, strict=True):
            fresh.assign(old)
        # A variable, so that one traced graph serves all batches.
        stand_in.momentum = tf.Variable(0.0, trainable=False, dtype="float32")
        stand_ins[path] = stand_in
    probe = replace_layers(new, stand_ins)
    forward: Callable[[Any], Any] = tf.function(
        lambda x: probe(x, training=False), reduce_retracing=True
    )
    count = 0
    for batch in itertools.islice(batches, steps):
        for stand_in in stand_ins.values():
            stand_in.momentum.assign(count / (count + 1))
        forward(batch[0] if isinstance(batch, tuple) else batch)
        count += 1
    if count == 0:
        raise ValueError("Batch norm recalibration needs at least one batch.")
    for path, layer in norms.items():
        layer.moving_mean.assign(stand_ins[path].moving_mean)
        layer.moving_variance.assign(stand_ins[path].moving_variance)
    return new
