"""Copies of models that compute in another number format, or across devices."""

from __future__ import annotations

import keras

from tfcompress.errors import UnsupportedModelError
from tfcompress.surgery.replace import replace_layers
from tfcompress.trace import leaves


def in_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """A copy that computes in another type, such as "bfloat16" or "mixed_bfloat16".

    Args:
        model: a built Sequential or Functional model; it is not changed.
        dtype: a Keras dtype policy.

    Returns:
        A new, uncompiled model with the same weights, rounded where need be.

    Raises:
        UnsupportedModelError: a subclassed model, or an unknown policy.

    Example:
        >>> in_dtype(model, "mixed_bfloat16").layers[0].compute_dtype
        'bfloat16'
    """
    try:
        policy = keras.DTypePolicy(dtype)
    except ValueError as error:
        raise UnsupportedModelError(f"No dtype policy '{dtype}': {error}") from error

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.InputLayer):
            return layer
        return type(layer).from_config(layer.get_config() | {"dtype": policy})

    try:
        new = keras.models.clone_model(model, clone_function=clone, recursive=True)
    except ValueError as error:
        raise UnsupportedModelError(
            f"'{model.name}' cannot be copied in {dtype}: only Sequential and "
            f"Functional models can. {error}"
        ) from error
    new.set_weights(model.get_weights())
    return new


def synchronize_batch_norm(model: keras.Model) -> keras.Model:
    """A copy whose batch normalization averages over all replicas in training.

    Args:
        model: a built model; it is not changed. Make the copy in the scope of the
            `tf.distribute` strategy it is trained with.

    Returns:
        A new, uncompiled model with the same weights.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt.

    Example:
        >>> norm = keras.layers.BatchNormalization()
        >>> net = keras.Sequential([keras.Input((2,)), norm])
        >>> synchronize_batch_norm(net).layers[0].synchronized
        True
    """
    new = {}
    for path, layer in leaves(model):
        if type(layer) is keras.layers.BatchNormalization:
            config = layer.get_config() | {"synchronized": True}
            new[path] = keras.layers.BatchNormalization.from_config(config)
            new[path].build(layer._build_shapes_dict["input_shape"])
            new[path].set_weights(layer.get_weights())
    return replace_layers(model, new)
