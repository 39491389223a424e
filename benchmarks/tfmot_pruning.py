"""Magnitude pruning of Keras 3 models with the TensorFlow Model Optimization Toolkit.

The toolkit takes legacy `tf_keras` models only: the network is rebuilt there layer by
layer, pruned while it is trained, and its weights are carried back.
"""

from __future__ import annotations

import gzip
import inspect
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distill import ViewSpec, make_views
from tfcompress.errors import UnsupportedModelError
from tfcompress.surgery import copy_model

_HALVINGS = 10
# Weights are pruned this often, in steps, up to this share of the training; the rest
# is left for recovery.
_FREQUENCY = 10
_PRUNED_BY = 0.5
_LEGACY = "TF_USE_LEGACY_KERAS"


def prune_with_tfmot(
    model: keras.Model,
    train: tf.data.Dataset,
    *,
    sparsity: float,
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
    views: ViewSpec,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> keras.Model:
    """A copy of a model with some of the weights of every kernel set to zero.

    `prune_low_magnitude` with a polynomial schedule that ends halfway, trained by
    labels; optimizer and learning rates are those of `tfcompress.distill.fit`.

    Args:
        model: a Functional classifier giving logits; it is not changed.
        train: endless batches of `(images, labels)`.
        sparsity: share of zeros in each kernel at the end, in (0, 1).
        epochs, steps_per_epoch: length of the training.
        learning_rate: its peak.
        views: crops and flips of the images; labels are not mixed.
        weight_decay: see `tfcompress.distill.make_optimizer`.
        seed: of the views.

    Returns:
        A Keras 3 model of the same layers.
    """
    pruning, tf_keras = _toolkit()
    legacy = to_tf_keras(model)
    steps = epochs * steps_per_epoch
    schedule = pruning.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=0,
        end_step=max(int(_PRUNED_BY * steps), 1),
        frequency=min(_FREQUENCY, steps),
    )
    wrapped = pruning.prune_low_magnitude(legacy, schedule)
    wrapped.compile(
        _optimizer(tf_keras, steps, learning_rate, weight_decay),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )

    def view(step: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        key = tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])
        return make_views(batch[0], key, views).student, batch[1]

    wrapped.fit(
        train.enumerate().map(view, num_parallel_calls=1),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=[pruning.UpdatePruningStep()],
        verbose=0,
    )
    stripped = pruning.strip_pruning(wrapped)
    pruned = copy_model(model)
    for layer in pruned.layers:
        weights = stripped.get_layer(layer.name).get_weights()
        # The toolkit multiplies by a mask, which leaves zeros of both signs: harder
        # to compress than they need be. The sum has only positive ones.
        layer.set_weights([weight + 0.0 for weight in weights])
    return pruned


def _toolkit() -> tuple[Any, Any]:
    """`tfmot.sparsity.keras` and `tf_keras`; `tf.keras` stays what it is."""
    # What `tf.keras` is, is settled by its first use: before the toolkit sets the
    # variable for the whole process.
    tf.keras.version()
    before = os.environ.get(_LEGACY)
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras

        # It imports its parts on their first use: here.
        sparsity = tfmot.sparsity.keras
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before
    return sparsity, tf_keras


def _optimizer(
    tf_keras: Any, steps: int, learning_rate: float, weight_decay: float
) -> Any:
    """`tfcompress.distill.make_optimizer`, of tf_keras."""
    warmup = max(steps // 20, 1)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(steps - warmup, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    optimizer = tf_keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay / learning_rate, global_clipnorm=1.0
    )
    names = ["bias", "gamma", "beta"]
    optimizer.exclude_from_weight_decay(var_names=names)
    return optimizer


def to_tf_keras(model: keras.Model) -> Any:
    """The same network as a `tf_keras` model, with the same weights and layer names.

    Args:
        model: a Functional model of stock layers, none of them shared. Initializers,
            regularizers and constraints stay behind.

    Raises:
        UnsupportedModelError: tf_keras has no such layer, or it is a shared one.
    """
    _, tf_keras = _toolkit()
    tensors: dict[int, Any] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            shape = layer.output.shape[1:]
            tensors[id(layer.output)] = tf_keras.Input(shape, name=layer.name)
            continue
        given = keras.tree.flatten(layer.input)
        kind = getattr(tf_keras.layers, type(layer).__name__, None)
        if kind is None or any(id(tensor) not in tensors for tensor in given):
            raise UnsupportedModelError(
                f"Layer '{layer.name}' cannot be rebuilt in tf_keras: there is no such "
                f"layer, or it is called more than once. Received: {type(layer)}"
            )
        inputs = [tensors[id(tensor)] for tensor in given]
        legacy = kind(**_plain_config(layer, kind))
        outputs = legacy(inputs if isinstance(layer.input, list) else inputs[0])
        legacy.set_weights(layer.get_weights())
        tensors[id(layer.output)] = outputs
    ends = ([tensors[id(t)] for t in side] for side in (model.inputs, model.outputs))
    return tf_keras.Model(*ends, name=model.name)


def _plain_config(layer: keras.layers.Layer, kind: type) -> dict[str, Any]:
    """Arguments that the legacy class takes and that are no objects of Keras 3."""
    known = {*inspect.signature(kind.__init__).parameters, "name"} - {"kwargs"}
    return {
        key: value
        for key, value in layer.get_config().items()
        if key in known and not isinstance(value, dict)
    }


def sparsity_for_bytes(model: keras.Model, file: bytes, target: int) -> float:
    """Sparsity of all kernels at which a gzipped file is about `target` bytes large.

    Zeros cost nearly nothing once compressed. The size is predicted from the weights
    as they are, cut by magnitude; what else is in the file stays as large as it is.

    Args:
        model: a trained model.
        file: its float32 `.tflite` file.
        target: bytes.

    Returns:
        The smallest sparsity in steps of 1/1024, in (0, 1).

    Raises:
        ValueError: the file is no larger than that as it is, or the rest of it is.
    """
    # As in the file, output channels come first.
    kernels = [
        np.moveaxis(np.asarray(layer.kernel, np.float32), -1, 0)
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
    rest = gzipped_size(file) - gzipped_size(_cut(kernels, 0.0))

    def size(sparsity: float) -> int:
        return rest + gzipped_size(_cut(kernels, sparsity))

    if not size(1.0) < target < size(0.0):
        raise ValueError(
            "Pruning cannot bring the file to that size: it can only lie between "
            f"{size(1.0)} and {size(0.0)} bytes. Received: target={target}"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if size(middle) > target else (low, middle)
    return high


def gzipped_size(content: bytes) -> int:
    """Bytes after gzip at its strongest."""
    return len(gzip.compress(content, 9, mtime=0))


def _cut(kernels: list[np.ndarray], sparsity: float) -> bytes:
    parts = []
    for kernel in kernels:
        count = round(sparsity * kernel.size)
        flat = kernel.ravel().copy()
        flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0.0
        parts.append(flat.tobytes())
    return b"".join(parts)
