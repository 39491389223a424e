"""Training over several workers, by a loop of our own.

`Model.fit` of Keras 3 fails under `MultiWorkerMirroredStrategy`; the trainers' own
`train_step` runs in it as it is. The state is kept in a checkpoint: when a worker is
lost, all are started again and go on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.checkpoint import restore_checkpoint, save_checkpoint
from tfcompress.errors import TfcompressError

MakeBatches = Callable[[tf.distribute.InputContext, int], tf.data.Dataset]
Progress = Callable[[int, int, dict[str, float]], None]


class WorkerLostError(TfcompressError, RuntimeError):
    """Another worker of the training has gone."""


def fit_with_strategy(
    strategy: tf.distribute.Strategy,
    make_trainer: Callable[[], keras.Model],
    make_batches: MakeBatches,
    *,
    epochs: int,
    steps_per_epoch: int,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> keras.Model:
    """Trains on all replicas of a strategy, on one worker or several.

    Start the same program on every worker, with `TF_CONFIG` set as TensorFlow asks for;
    make the strategy first of all. Every worker ends with the same weights.

    Args:
        strategy: such as `tf.distribute.MultiWorkerMirroredStrategy()`.
        make_trainer: makes and compiles the `Distiller` (or `Supervised`, `Matching`),
            networks included; called in the strategy's scope.
        make_batches: gives this worker's batches, of the size of one replica's share,
            endless, from the given epoch on; see `share_of_batches`.
        epochs: in all, those before a restart included.
        steps_per_epoch: steps of each.
        checkpoint: a file that all workers can read and the first one writes after
            every epoch; where it exists, the training goes on from there.
        progress: called on every worker after each epoch, with (epochs done, epochs in
            all, figures).

    Returns:
        The trainer.

    Raises:
        WorkerLostError: another worker has gone: start all again.
        CheckpointError: see `restore_checkpoint`.

    Example:
        >>> strategy = tf.distribute.MultiWorkerMirroredStrategy()    # doctest: +SKIP
        >>> trainer = fit_with_strategy(                              # doctest: +SKIP
        ...     strategy, make_trainer, make_batches,
        ...     epochs=100, steps_per_epoch=400, checkpoint="training.npz")
    """
    with strategy.scope():
        trainer = make_trainer()
        if not trainer.optimizer.built:
            trainer.optimizer.build(trainer.trainable_variables)
    done = 0 if checkpoint is None else restore_checkpoint(trainer, checkpoint).epoch
    batches = strategy.distribute_datasets_from_function(
        lambda context: make_batches(context, done)
    )
    iterator = iter(batches)

    @tf.function
    def one_epoch(steps: Any) -> None:
        for _ in tf.range(steps):
            strategy.run(trainer.train_step, args=(next(iterator),))

    try:
        for epoch in range(done, epochs):
            trainer.reset_metrics()
            one_epoch(tf.constant(steps_per_epoch))
            figures = {m.name: float(m.result()) for m in trainer.metrics}
            if checkpoint is not None and _is_first(strategy):
                save_checkpoint(trainer, Path(checkpoint), epoch=epoch + 1)
            if progress is not None:
                progress(epoch + 1, epochs, figures)
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        where = f"from '{checkpoint}'" if checkpoint else "from the beginning"
        raise WorkerLostError(
            "Another worker has gone. Start all of them again: the training goes on "
            f"{where}. ({type(error).__name__})"
        ) from error
    return trainer


def share_of_batches(
    batches: tf.data.Dataset, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """This worker's part of global batches, cut for its replicas.

    Replica i gets the i-th part of each batch: so the numbers, and with them the views,
    are those of one device with the whole batch.

    Args:
        batches: global batches, the same on all workers; every batch must be full.
        context: tells the worker and the number of replicas.

    Returns:
        Batches of the size of one replica's share.

    Example:
        >>> second = tf.distribute.InputContext(
        ...     num_input_pipelines=2, input_pipeline_id=1, num_replicas_in_sync=2)
        >>> batches = tf.data.Dataset.range(8).batch(4)
        >>> [x.numpy().tolist() for (x,) in share_of_batches(batches, second)]
        [[2, 3], [6, 7]]
    """
    workers, replicas = context.num_input_pipelines, context.num_replicas_in_sync
    place = context.input_pipeline_id

    def cut(*batch: Any) -> tf.data.Dataset:
        size = tf.shape(tf.nest.flatten(batch)[0])[0]
        part = size // workers
        mine = tf.nest.map_structure(
            lambda x: x[place * part : (place + 1) * part], batch
        )
        local = tf.data.Dataset.from_tensor_slices(mine)
        return local.batch(tf.cast(size // replicas, tf.int64), drop_remainder=True)

    return batches.flat_map(cut)


def _is_first(strategy: tf.distribute.Strategy) -> bool:
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return True
    return resolver.task_type in (None, "worker", "chief") and not resolver.task_id
