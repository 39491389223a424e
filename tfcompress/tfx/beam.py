"""Bulk evaluation of a `.tflite` file as Beam transforms, on any Beam runner.

This module imports no tfx, only apache_beam, which comes with the extra `tfx`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.utils import shared

from tfcompress.data.features import Features, find_features, known_features
from tfcompress.data.spec import DatasetError
from tfcompress.tfx.inference import Engine, Scored

_NAMESPACE = "tfcompress"
BAD = ("raise", "count")


class Prediction(NamedTuple):
    """What a file says of one example.

    Attributes:
        id: the example's number, or None where it has none.
        label: its class by its own word, or None.
        predicted: the class by the file.
        scores: the outputs of the file, one for each class.
    """

    id: int | None
    label: int | None
    predicted: int
    scores: tuple[float, ...]


def features_of(pattern: str, given: Mapping[str, Any] | None = None) -> Features:
    """Which features of tf.Examples hold image and label, by the first one.

    Args:
        pattern: of TFRecord files, anywhere that `tf.io.gfile` reads.
        given: as `features` of `DatasetSpec`, where the examples do not speak for
            themselves.

    Raises:
        DatasetError: no such files, no examples in them, or no image or label.
    """
    import tensorflow as tf

    from tfcompress.data.examples import read_records

    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise DatasetError(f"there are no files '{pattern}' with examples")
    try:
        first = next(iter(read_records(files).take(1).as_numpy_iterator()), None)
        example = None if first is None else tf.train.Example.FromString(first)
    # Errors of reading, or protobuf's own, whose type has moved between versions.
    except Exception as error:
        raise DatasetError(
            f"'{files[0]}' cannot be read as a TFRecord file of tf.Examples"
        ) from error
    if example is None:
        raise DatasetError(f"'{files[0]}' has no examples")
    where = f"'{files[0]}'"
    if given:
        return known_features(given, example, where=where)
    return find_features(example, where=where)


@dataclasses.dataclass(frozen=True)
class _Options:
    """What a worker needs to know; plain data, so that it can be sent there."""

    file: str
    features: Features
    pixel_range: tuple[float, float]
    image_size: tuple[int, int] | None
    batch_size: int
    num_threads: int
    bad: str

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_threads < 1:
            raise DatasetError(
                "batch_size and num_threads must be positive. Received: "
                f"{self.batch_size} and {self.num_threads}"
            )
        if self.bad not in BAD:
            raise DatasetError(f"bad is one of {', '.join(BAD)}. Received: {self.bad}")


class _Transform(beam.PTransform):
    """Base of both transforms: their common arguments."""

    def __init__(
        self,
        file: str,
        *,
        features: Features,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        image_size: tuple[int, int] | None = None,
        batch_size: int = 256,
        num_threads: int = 1,
        bad: str = "raise",
    ) -> None:
        super().__init__()
        self._options = _Options(
            file=str(file),
            features=features,
            pixel_range=pixel_range,
            image_size=image_size,
            batch_size=batch_size,
            num_threads=num_threads,
            bad=bad,
        )

    def _scored(self, records: Any, *, labelled: bool) -> Any:
        size = self._options.batch_size
        return (
            records
            | "Batch" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
            | "Run" >> beam.ParDo(_Run(self._options, labelled))
        )


class EvaluateTFLiteFile(_Transform):
    """Serialized tf.Examples in, one mapping out: accuracy and the confusion matrix.

    The figures are those of `evaluate_tflite` on the same examples.

    Args:
        file: a `.tflite` classifier, anywhere that `tf.io.gfile` reads.
        features: which features hold image and label; see `features_of`.
        pixel_range: what bytes 0 and 255 are for the model.
        image_size: (height, width) that encoded images are resized to.
        batch_size: examples that are run at once.
        num_threads: CPU threads of the interpreter, of which each worker has one.
        bad: "raise" stops at an example without image or label, or with a label that
            the file has no output for; "count" leaves such out and counts them.

    Returns:
        A PCollection of one mapping: "accuracy" (None without examples), "samples",
        "classes" (a list of "samples" and "correct" by label), "confusion" (rows are
        labels, columns predictions) and "bad" (counts by reason).

    Raises:
        DatasetError: options out of range; or, in a worker, a bad example.
        ModelFileError: in a worker: no working TFLite model.
        ModelInputError: in a worker: the model takes or gives something else.
    """

    def expand(self, records: Any) -> Any:
        return self._scored(records, labelled=True) | "Count" >> beam.CombineGlobally(
            _Count()
        )


class PredictTFLiteFile(_Transform):
    """Serialized tf.Examples in, a `Prediction` for each out; they need no label.

    Args:
        file, features, pixel_range, image_size, batch_size, num_threads, bad: see
            `EvaluateTFLiteFile`.
    """

    def expand(self, records: Any) -> Any:
        scored = self._scored(records, labelled=False)
        return scored | "Each" >> beam.FlatMap(_predictions)


def _predictions(scored: Scored) -> Iterator[Prediction]:
    for number, label, scores in zip(
        scored.ids, scored.labels, scored.scores, strict=True
    ):
        yield Prediction(
            id=None if number < 0 else int(number),
            label=None if label < 0 else int(label),
            predicted=int(scores.argmax()),
            scores=tuple(map(float, scores)),
        )


class _Run(beam.DoFn):
    """Runs the file on batches; the threads of a worker share one interpreter."""

    def __init__(self, options: _Options, labelled: bool) -> None:
        self._options = options
        self._labelled = labelled
        self._shared = shared.Shared()
        self._engine: Engine | None = None
        self._seen = beam.metrics.Metrics.counter(_NAMESPACE, "examples")
        self._left_out = beam.metrics.Metrics.counter(_NAMESPACE, "bad_examples")

    def setup(self) -> None:
        options = self._options
        self._engine = self._shared.acquire(
            lambda: Engine(options.file, num_threads=options.num_threads),
            tag=(options.file, options.num_threads),
        )

    def process(self, records: list[bytes]) -> Iterable[Scored]:
        options = self._options
        scored = self._engine.run(
            records,
            options.features,
            pixel_range=options.pixel_range,
            image_size=options.image_size,
            labelled=self._labelled,
        )
        self._seen.inc(len(records))
        self._left_out.inc(sum(scored.bad.values()))
        if scored.bad and options.bad == "raise":
            reasons = "; ".join(f"{n} {reason}" for reason, n in scored.bad.items())
            raise DatasetError(
                f"of {len(records)} examples {reasons}: mend them, or give bad='count'"
            )
        yield scored

    def teardown(self) -> None:
        self._engine = None


class _Count(beam.CombineFn):
    """Counts pairs of label and prediction, and bad examples by reason."""

    def create_accumulator(self) -> tuple[int, Any, Any]:
        return 0, collections.Counter(), collections.Counter()

    def add_input(self, total: tuple[int, Any, Any], scored: Scored) -> Any:
        predicted = scored.scores.argmax(axis=-1)
        pairs = zip(scored.labels.tolist(), predicted.tolist(), strict=True)
        return self.merge_accumulators(
            [
                total,
                (
                    scored.classes,
                    collections.Counter(pairs),
                    collections.Counter(scored.bad),
                ),
            ]
        )

    def merge_accumulators(self, totals: Iterable[tuple[int, Any, Any]]) -> Any:
        classes, pairs, bad = self.create_accumulator()
        for other_classes, other_pairs, other_bad in totals:
            classes = max(classes, other_classes)
            pairs.update(other_pairs)
            bad.update(other_bad)
        return classes, pairs, bad

    def extract_output(self, total: tuple[int, Any, Any]) -> dict[str, Any]:
        classes, pairs, bad = total
        confusion = np.zeros((classes, classes), np.int64)
        for (label, predicted), count in pairs.items():
            confusion[label, predicted] = count
        samples, correct = int(confusion.sum()), int(confusion.trace())
        rows = zip(confusion.sum(axis=1), confusion.diagonal(), strict=True)
        return {
            "accuracy": correct / samples if samples else None,
            "samples": samples,
            "classes": [{"samples": int(n), "correct": int(c)} for n, c in rows],
            "confusion": confusion.tolist(),
            "bad": dict(sorted(bad.items())),
        }
