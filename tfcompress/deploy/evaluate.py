"""Accuracy of a ``.tflite`` file itself, and its agreement with a reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfcompress.deploy.tflite_model import ModelInputError, TensorInfo, TFLiteModel

__all__ = ["ModelInputError", "TFLiteModel", "TensorInfo", "evaluate_tflite"]


def evaluate_tflite(
    path: str | os.PathLike,
    dataset: Iterable,
    *,
    reference: Callable | None = None,
    num_threads: int | None = None,
) -> dict[str, float | int]:
    """Scores a ``.tflite`` classifier, and compares it with a reference.

    Args:
        path: a ``.tflite`` file with one output of shape `(batch, classes)`.
        dataset: iterable of `(inputs, labels)` batches; `inputs` as for
            `TFLiteModel.predict`, `labels` integers of shape `(batch,)` or
            `(batch, 1)`.
        reference: a Keras model, or any function from `inputs` to an array of shape
            `(batch, classes)`, such as the model the file was exported from.
        num_threads: CPU threads; `None` leaves the choice to LiteRT.

    Returns:
        `{"accuracy": fraction, "samples": count}`; with `reference` also
        `"reference_accuracy"`, `"agreement"` (fraction of equal top-1 classes) and
        `"max_abs_difference"` (over all raw outputs).

    Raises:
        ModelFileError: the file is no working TFLite model.
        ModelInputError: the data does not fit the model, or there is none.

    Example:
        >>> evaluate_tflite("model.tflite", [(images, labels)], reference=model)
        {'accuracy': 0..., 'samples': 32, 'reference_accuracy': 0..., ...}
    """
    model = TFLiteModel(path, num_threads=num_threads)
    if len(model.outputs) != 1:
        raise ModelInputError(
            "Accuracy needs a model with one output; export that output alone. "
            f"Received: outputs {[output.name for output in model.outputs]}"
        )
    if isinstance(reference, keras.Model):
        reference = _compiled(reference)
    samples = correct = agreeing = reference_correct = 0
    difference = 0.0
    for inputs, labels in dataset:
        scores = _class_scores(model.predict(inputs), "the TFLite model")
        classes = scores.argmax(axis=-1)
        wanted = _integer_labels(labels, len(scores))
        correct += int(np.sum(classes == wanted))
        samples += len(scores)
        if reference is not None:
            expected = _reference_scores(reference, inputs)
            if expected.shape != scores.shape:
                raise ModelInputError(
                    "The reference and the TFLite model must give outputs of one "
                    f"shape. Received: {expected.shape} and {scores.shape}"
                )
            expected_classes = expected.argmax(axis=-1)
            agreeing += int(np.sum(classes == expected_classes))
            reference_correct += int(np.sum(expected_classes == wanted))
            # np.maximum, unlike max, keeps a NaN.
            difference = np.maximum(difference, np.abs(scores - expected).max())
    if not samples:
        raise ModelInputError("The evaluation dataset is empty; give at least a batch.")
    result: dict[str, float | int] = {"accuracy": correct / samples, "samples": samples}
    if reference is not None:
        result["reference_accuracy"] = reference_correct / samples
        result["agreement"] = agreeing / samples
        result["max_abs_difference"] = float(difference)
    return result


def _compiled(model: keras.Model) -> Callable:
    """The model in inference mode as a graph, which takes half the time."""
    import tensorflow as tf

    return tf.function(lambda x: model(x, training=False), reduce_retracing=True)


def _reference_scores(reference: Callable, inputs: Any) -> np.ndarray:
    leaves = keras.tree.flatten(reference(inputs))
    if len(leaves) != 1:
        raise ModelInputError(
            f"The reference must give one output. Received: {len(leaves)} outputs"
        )
    scores = keras.ops.convert_to_numpy(leaves[0])
    return _class_scores(scores, "the reference")


def _class_scores(scores: np.ndarray, what: str) -> np.ndarray:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ModelInputError(
            f"Top-1 accuracy needs outputs of shape (batch, classes) from {what}, with "
            f"two classes or more. Received: shape {scores.shape}"
        )
    return scores


def _integer_labels(labels: Any, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ModelInputError(
            f"Labels must be {count} class numbers, one for each sample; turn one-hot "
            "labels into numbers with argmax. "
            f"Received: shape {labels.shape}, dtype {labels.dtype}"
        )
    return labels
