"""Detection: boxes with classes, judged by the mean average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfcompress.metric import METRICS
from tfcompress.models.pictures import BOX, STRIDE
from tfcompress.tasks.base import PictureTask
from tfcompress.tasks.boxes import (
    cell_distances,
    decode_boxes,
    detection_divergence,
    detection_loss,
)
from tfcompress.tasks.precision import Precision, evaluation_classes

if TYPE_CHECKING:
    from tfcompress.data import Dataset


@keras.saving.register_keras_serializable(package="tfcompress")
class DetectionLoss(keras.losses.Loss):
    """`detection_loss` as `compile` takes it."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return detection_loss(y_true, y_pred)


class DetectionScorer:
    """Decodes the cells, and counts up the average precision.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._precision = Precision(classes)

    def update(self, targets: Any, outputs: Any) -> None:
        self._precision.update(targets, *decode_boxes(outputs))

    def result(self) -> dict[str, float]:
        return self._precision.result()


class Detection(PictureTask):
    """Boxes `(batch, most, 5)`, from the cells of a single-shot detector.

    Args:
        data: the data set.

    Raises:
        TfcompressError: pycocotools is not installed.
    """

    def __init__(self, data: Dataset) -> None:
        # Not after hours of training.
        evaluation_classes()
        super().__init__(
            data,
            metric=METRICS[data.task],
            networks=("detector",),
            loss=DetectionLoss(),
            scorer=lambda: DetectionScorer(data.num_classes),
            divergence=detection_divergence,
            distances=(_distance, "values"),
        )

    def output_shapes(self) -> tuple[int, ...]:
        height, width, _ = self.data.image_shape
        return (height // STRIDE, width // STRIDE, self.data.num_classes + BOX)


def _distance(teacher: Any, student: Any, temperature: float) -> Any:
    return cell_distances(teacher, student)
