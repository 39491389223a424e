"""The task of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfcompress.tasks.classification import Classifying
from tfcompress.tasks.detection import Detection
from tfcompress.tasks.regression import Regression
from tfcompress.tasks.segmentation import Segmentation

if TYPE_CHECKING:
    from tfcompress.data import Dataset

TASKS = {
    "classification": Classifying,
    "detection": Detection,
    "segmentation": Segmentation,
    "regression": Regression,
}


def task_of(data: Dataset) -> Any:
    """How networks for a data set are judged and trained.

    Args:
        data: its `task` decides.

    Returns:
        `Classifying`, or a `PictureTask`: one interface.

    Raises:
        TfcompressError: a library that its metric needs is not installed.

    Example:
        >>> task_of(load_dataset("digits")).metric.label
        'accuracy'
    """
    return TASKS[data.task](data)
