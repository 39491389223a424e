"""Classification, as the stages see it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfcompress.deploy import evaluate_tflite
from tfcompress.distill import Distiller, Supervised, ViewSpec, evaluate
from tfcompress.errors import ModelFileError
from tfcompress.metric import ACCURACY

if TYPE_CHECKING:
    from tfcompress.data import Dataset


class Classifying:
    """One class for each picture; see `PictureTask` for the methods.

    Args:
        data: the data set.
    """

    metric = ACCURACY
    networks = ("resnet", "vgg", "vit")

    def __init__(self, data: Dataset) -> None:
        self.data = data

    @property
    def outputs(self) -> int:
        return self.data.num_classes

    def loop_task(self, views: ViewSpec | None) -> None:
        # `compress` is made for classifiers where it is given no task.
        return None

    def figures(
        self,
        model: keras.Model,
        batches: Iterable,
        teacher: keras.Model | None = None,
    ) -> dict[str, float]:
        return evaluate(model, batches, teacher=teacher)

    def file_figures(
        self,
        path: Path,
        batches: Iterable,
        *,
        teacher: Any,
        own: Any,
        num_threads: int | None,
    ) -> dict[str, Any]:
        scores = evaluate_tflite(
            path, batches, reference=teacher, num_threads=num_threads
        )
        mine = scores
        if own is not teacher:
            mine = evaluate_tflite(
                path, batches, reference=own, num_threads=num_threads
            )
        return {
            "accuracy": scores["accuracy"],
            "agreement": scores["agreement"],
            "samples": scores["samples"],
            "agreement_with_keras": mine["agreement"],
            "max_abs_difference_to_keras": mine["max_abs_difference"],
        }

    evaluate_file = staticmethod(evaluate_tflite)

    def by_labels(
        self, model: keras.Model, views: ViewSpec, *, seed: int
    ) -> tuple[keras.Model, dict[str, Any]]:
        return Supervised(model, views=views, seed=seed), {}

    def by_teacher(
        self, student: keras.Model, teacher: keras.Model, **options: Any
    ) -> tuple[keras.Model, dict[str, Any]]:
        return Distiller(student, teacher, **options), {}

    def check_outputs(self, model: keras.Model, origin: str) -> None:
        output = getattr(model, "output_shape", None)
        classes = self.data.num_classes
        if output is not None and tuple(output) != (None, classes):
            raise ModelFileError(
                f"Model '{origin}' gives outputs of shape {output}, but data set "
                f"'{self.data.name}' has {classes} classes: one output "
                f"(batch, {classes}) is needed."
            )
