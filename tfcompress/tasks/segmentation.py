"""Segmentation: a class for each pixel, judged by the mean intersection over union."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfcompress.distill import output_divergence
from tfcompress.metric import METRICS
from tfcompress.tasks.base import PictureTask

if TYPE_CHECKING:
    from tfcompress.data import Dataset


class MeanIoU:
    """Scores masks by `keras.metrics.MeanIoU`.

    Args:
        classes: of a pixel, the background among them.
    """

    def __init__(self, classes: int) -> None:
        self._metric = keras.metrics.MeanIoU(classes, sparse_y_pred=False)

    def update(self, targets: Any, outputs: Any) -> None:
        self._metric.update_state(targets, outputs)

    def result(self) -> dict[str, float]:
        return {"mean_iou": float(self._metric.result())}


class Segmentation(PictureTask):
    """Masks `(batch, height, width)` of class numbers, from logits of each pixel.

    Args:
        data: the data set.
    """

    def __init__(self, data: Dataset) -> None:
        super().__init__(
            data,
            metric=METRICS[data.task],
            networks=("unet",),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            scorer=lambda: MeanIoU(data.num_classes),
            divergence=output_divergence,
        )

    def output_shapes(self) -> tuple[int, ...]:
        return (*self.data.image_shape[:2], self.data.num_classes)
