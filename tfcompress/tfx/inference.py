"""A `.tflite` file run on serialized tf.Examples: what a Beam worker does.

This module imports neither tfx nor Beam.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.data.features import Features
from tfcompress.deploy.tflite_model import ModelInputError, TFLiteModel
from tfcompress.errors import ModelFileError


@dataclasses.dataclass
class Scored:
    """A batch of examples, run.

    Attributes:
        ids: numbers of the good examples `[n]`, -1 where they have none.
        labels: their labels `[n]`, -1 where they have none.
        scores: the outputs of the file `[n, classes]`.
        bad: how many examples were left out, by reason.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    bad: dict[str, int]

    @property
    def classes(self) -> int:
        return self.scores.shape[1]


class Engine:
    """An interpreter for all threads of a worker, which take turns.

    Args:
        file: a `.tflite` file, anywhere that `tf.io.gfile` reads.
        num_threads: CPU threads of the interpreter.

    Raises:
        ModelFileError: no such file, or no working TFLite model.
        ModelInputError: not one input and one output `(batch, classes)`.
    """

    def __init__(self, file: str, *, num_threads: int = 1) -> None:
        self._turn = threading.Lock()
        self._model = _open(file, num_threads)
        inputs, outputs = self._model.inputs, self._model.outputs
        if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise ModelInputError(
                "Examples are classified by a model of one input and one output "
                f"(batch, classes). Received: '{file}' with inputs "
                f"{[i.shape for i in inputs]} and outputs {[o.shape for o in outputs]}"
            )
        self.classes = int(outputs[0].shape[1])

    def run(
        self,
        records: Sequence[bytes],
        features: Features,
        *,
        pixel_range: tuple[float, float],
        image_size: tuple[int, int] | None,
        labelled: bool,
    ) -> Scored:
        """Runs the file on a batch.

        Args:
            records: serialized tf.Examples.
            features: which features hold image, label and number.
            pixel_range: what bytes 0 and 255 are for the model.
            image_size: (height, width) that encoded images are resized to.
            labelled: whether an example without a good label is a bad one.

        Returns:
            The batch without the bad ones.

        Raises:
            ModelInputError: the images do not fit the model.
        """
        records, images, bad = _images(records, features, pixel_range, image_size)
        labels, ids = _numbers(records, features.label, features.id)
        if labelled and len(records):
            good = (labels >= 0) & (labels < self.classes)
            for index in np.flatnonzero(~good):
                bad[_label_reason(records[index], features.label, self.classes)] += 1
            images, labels, ids = images[good], labels[good], ids[good]
        scores = np.zeros((0, self.classes), np.float32)
        if len(images):
            with self._turn:
                scores = self._model.predict(images, batch_size=len(images))
        return Scored(ids, labels, scores, dict(bad))


def _open(file: str, num_threads: int) -> TFLiteModel:
    if not tf.io.gfile.exists(file) or tf.io.gfile.isdir(file):
        raise ModelFileError(f"There is no .tflite file '{file}'.")
    with tempfile.TemporaryDirectory() as folder:
        # LiteRT reads only local files; it keeps this one mapped after it is gone.
        local = os.path.join(folder, "model.tflite")
        tf.io.gfile.copy(file, local)
        try:
            return TFLiteModel(local, num_threads=num_threads)
        except ModelFileError as error:
            raise ModelFileError(str(error).replace(local, file)) from error


def _images(
    records: Sequence[bytes],
    features: Features,
    pixel_range: tuple[float, float],
    size: tuple[int, int] | None,
) -> tuple[list[bytes], np.ndarray, collections.Counter]:
    """The records with a good image, their images, and the others by reason."""

    def parse(some: Sequence[bytes]) -> np.ndarray:
        found = features.parse_images(
            tf.constant(list(some)), pixel_range=pixel_range, size=size
        )
        return found.numpy()

    bad: collections.Counter = collections.Counter()
    try:
        return list(records), parse(records), bad
    except tf.errors.InvalidArgumentError:
        # One of them is bad: which?
        good, images = [], []
        for record in records:
            try:
                images.append(parse([record]))
                good.append(record)
            except tf.errors.InvalidArgumentError:
                bad[_image_reason(record, features)] += 1
    if not good:
        return [], np.zeros((0,), np.float32), bad
    return good, np.concatenate(images), bad


def _image_reason(record: bytes, features: Features) -> str:
    held = _held(record)
    if held is None:
        return "are no tf.Examples"
    names = [name for name, _ in features.columns] or [features.image]
    for name in names:
        if name not in held:
            return f"have no feature '{name}' for the image"
    return f"have an image '{features.image}' of another kind or size than the first"


def _label_reason(record: bytes, label: str, classes: int) -> str:
    held = _held(record) or {}
    if label not in held:
        return f"have no feature '{label}' for the label"
    if len(held[label].int64_list.value) != 1:
        return f"have a label '{label}' that is not one whole number"
    return f"have a label '{label}' out of range (0 to {classes - 1})"


def _held(record: bytes) -> Any:
    try:
        return tf.train.Example.FromString(record).features.feature
    # Protobuf's own, whose type has moved between its versions.
    except Exception:
        return None


def _numbers(records: Sequence[bytes], *names: str | None) -> list[np.ndarray]:
    """Whole numbers by feature, -1 where an example has none."""
    spec = {
        name: tf.io.FixedLenFeature([], tf.int64, default_value=-1)
        for name in names
        if name is not None
    }
    blank = {name: np.full(len(records), -1, np.int64) for name in (*spec, None)}

    def parse(some: Sequence[bytes]) -> dict[str, np.ndarray]:
        found = tf.io.parse_example(tf.constant(list(some)), spec)
        return {name: values.numpy() for name, values in found.items()}

    found = blank
    if len(records) and spec:
        try:
            found = blank | parse(records)
        except tf.errors.InvalidArgumentError:
            # Numbers of another kind in one of them count as none.
            for index, record in enumerate(records):
                with contextlib.suppress(tf.errors.InvalidArgumentError):
                    for name, (value,) in parse([record]).items():
                        blank[name][index] = value
    return [found[name] for name in names]
