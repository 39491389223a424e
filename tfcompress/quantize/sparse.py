"""Magnitude pruning and weight clustering by tfmot, of Keras 3 models."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import OptionError
from tfcompress.quantize.legacy import carry_back, kept_scope, to_legacy, toolkit
from tfcompress.quantize.training import Progress, Training, train_twin

# Weights are pruned this often, in steps, up to this share of the training; the rest
# is left for recovery.
_FREQUENCY = 10
_PRUNED_BY = 0.5


def prune(
    model: keras.Model,
    train: tf.data.Dataset,
    *,
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
    training: Training | None = None,
    teacher: keras.Model | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """A copy of a model in which small weights are zero.

    `prune_low_magnitude` of tfmot with a polynomial schedule that ends halfway. The
    zeros make a compressed file smaller, and inference faster only where the runtime
    knows sparse kernels.

    Args:
        model: a trained Sequential or Functional Keras 3 model; it is not changed.
        train: batches `(inputs, labels)`.
        sparsity: share of zeros in each kernel at the end, in (0, 1).
        pattern: `(m, n)`: m zeros among every n weights instead, such as (2, 4).
        training: how long and how fast.
        teacher: whom to match; the model itself by default.
        progress: called with (epochs done, epochs in all, figures).

    Returns:
        A new Keras 3 model of stock layers.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt in tf_keras.
        OptionError: an argument out of range.

    Reference: Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878.

    Example:
        >>> sparse = prune(model, train, sparsity=0.8)               # doctest: +SKIP
        >>> float(np.mean(sparse.get_layer("head").kernel == 0.0))   # doctest: +SKIP
        0.8
    """
    if not 0.0 < sparsity < 1.0:
        raise OptionError(f"sparsity must lie in (0, 1). Received: {sparsity}")
    training = training or Training(learning_rate=1e-3)
    tfmot, tf_keras = toolkit()
    sparse = tfmot.sparsity.keras
    legacy = to_legacy(model)
    end = max(int(_PRUNED_BY * training.epochs * training.steps(train)), 1)
    frequency = min(_FREQUENCY, end)
    options: dict[str, Any] = {
        "pruning_schedule": sparse.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=sparsity,
            begin_step=0,
            # Weights are cut in whole periods: the last one must come.
            end_step=end - end % frequency,
            frequency=frequency,
        )
    }
    if pattern is not None:
        options = {
            "pruning_schedule": sparse.ConstantSparsity(0.5, 0, frequency=_FREQUENCY),
            "sparsity_m_by_n": pattern,
        }
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    def wrap(layer: Any) -> Any:
        known = prune_registry.PruneRegistry
        if layer.weights and known.supports(layer) and _has_kernel(layer):
            return sparse.prune_low_magnitude(layer, **options)
        return layer

    with kept_scope():
        wrapped = _wrapped(legacy.model, wrap)
        callbacks = [sparse.UpdatePruningStep()]
        train_twin(
            wrapped,
            teacher or model,
            train,
            training,
            callbacks=callbacks,
            progress=progress,
        )
        return carry_back(legacy, sparse.strip_pruning(wrapped))


def cluster(
    model: keras.Model,
    train: tf.data.Dataset,
    *,
    clusters: int = 16,
    preserve_sparsity: bool = False,
    training: Training | None = None,
    teacher: keras.Model | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """A copy of a model in which every kernel holds only a few different numbers.

    `cluster_weights` of tfmot: a compressed file gets smaller, inference no faster.

    Args:
        model: a trained Sequential or Functional Keras 3 model; it is not changed.
        train: batches `(inputs, labels)`.
        clusters: numbers in each kernel, at least 2.
        preserve_sparsity: zeros stay zeros, after `prune`.
        training: how long and how fast.
        teacher: whom to match; the model itself by default.
        progress: called with (epochs done, epochs in all, figures).

    Returns:
        A new Keras 3 model of stock layers.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt in tf_keras.
        OptionError: an argument out of range.

    Reference: Han et al. 2016, "Deep compression", arXiv:1510.00149, section 3.

    Example:
        >>> small = cluster(model, train, clusters=8)                # doctest: +SKIP
        >>> len(np.unique(small.get_layer("head").kernel))           # doctest: +SKIP
        8
    """
    if clusters < 2:
        raise OptionError(f"clusters must be at least 2. Received: {clusters}")
    training = training or Training(learning_rate=1e-4)
    tfmot, _ = toolkit()
    clustering = tfmot.clustering.keras
    legacy = to_legacy(model)
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster as clustering_module,
    )

    def wrap(layer: Any) -> Any:
        size = max((int(tf.size(w)) for w in layer.trainable_weights), default=0)
        if not _has_kernel(layer) or size <= clusters:
            return layer
        start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
        return clustering_module._cluster_weights(
            layer, clusters, start, preserve_sparsity=preserve_sparsity
        )

    with kept_scope(), clustering.cluster_scope():
        wrapped = _wrapped(legacy.model, wrap)
        train_twin(wrapped, teacher or model, train, training, progress=progress)
        return carry_back(legacy, clustering.strip_clustering(wrapped))


def _wrapped(twin: Any, wrap: Any) -> Any:
    _, tf_keras = toolkit()
    copied = tf_keras.models.clone_model(twin)
    copied.set_weights(twin.get_weights())
    return tf_keras.models.clone_model(copied, clone_function=wrap)


def _has_kernel(layer: Any) -> bool:
    """Not batch normalization, whose few weights matter more."""
    _, tf_keras = toolkit()
    norm = isinstance(layer, tf_keras.layers.BatchNormalization)
    return bool(layer.trainable_weights) and not norm
