"""Regression: numbers read off a picture, judged by their mean absolute error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfcompress.metric import METRICS
from tfcompress.tasks.base import PictureTask

if TYPE_CHECKING:
    from tfcompress.data import Dataset


class MeanAbsoluteErrors:
    """The mean absolute error of each output, and "mae", their mean.

    Args:
        names: of the outputs.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._metrics = {name: keras.metrics.MeanAbsoluteError() for name in names}

    def update(self, targets: Any, outputs: Any) -> None:
        for name, metric in self._metrics.items():
            metric.update_state(targets[name], outputs[name])

    def result(self) -> dict[str, float]:
        errors = {f"{name}_mae": float(m.result()) for name, m in self._metrics.items()}
        return errors | {"mae": float(np.mean(list(errors.values())))}


class Regression(PictureTask):
    """A number `(batch, 1)` for each output, each with a loss of its own.

    Args:
        data: the data set.
    """

    def __init__(self, data: Dataset) -> None:
        names = data.target_names
        super().__init__(
            data,
            metric=METRICS[data.task],
            networks=("regressor",),
            loss={name: keras.losses.MeanSquaredError() for name in names},
            scorer=lambda: MeanAbsoluteErrors(names),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.data.target_names

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.data.target_names, (1,))
