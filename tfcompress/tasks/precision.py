"""Average precision of boxes, by COCO's own evaluation (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from tfcompress.errors import TfcompressError
from tfcompress.tasks.boxes import MOST_BOXES


class Precision:
    """Counts up boxes, and gives the mean average precision of all.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._targets: list[np.ndarray] = []
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, targets: Any, boxes: Any, scores: Any, classes: Any) -> None:
        """Takes a batch; see `average_precision`."""
        self._targets += list(np.asarray(targets))
        self._found += list(zip(boxes, scores, classes, strict=True))

    def result(self) -> dict[str, float]:
        """ "map" and "map_50"."""
        return average_precision(self._targets, self._found, classes=self._classes)


def evaluation_classes() -> tuple[Any, Any]:
    """`COCO` and `COCOeval` of pycocotools.

    Raises:
        TfcompressError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise TfcompressError(
            "The average precision needs pycocotools: "
            "pip install 'tfcompress[detection]'"
        ) from error
    return COCO, COCOeval


def average_precision(targets: Any, found: Any, *, classes: int) -> dict[str, float]:
    """COCO's mean average precision, by pycocotools.

    Args:
        targets: of each image `(most, 5)`: (top, left, bottom, right, class), pixels;
            class -1 for none.
        found: of each image (boxes `(n, 4)`, scores `(n,)`, classes `(n,)`).
        classes: number of classes.

    Returns:
        "map", the mean over the overlaps 0.5 to 0.95, and "map_50", of the
        `MOST_BOXES` best of each class and image; 0 where nothing is found or there is
        nothing to find.

    Raises:
        TfcompressError: pycocotools is not installed.

    Reference: Lin et al. 2014, "Microsoft COCO".

    Example:
        >>> box = np.array([[0.0, 0.0, 8.0, 8.0]])
        >>> target = np.array([[0.0, 0.0, 8.0, 8.0, 1.0]])
        >>> found = average_precision([target], [(box, [0.9], [1])], classes=2)
        >>> round(found["map"], 6)
        1.0
    """
    COCO, COCOeval = evaluation_classes()
    truth = [
        _annotation(image, row[:4], row[4])
        for image, rows in enumerate(targets)
        for row in np.asarray(rows, np.float64)
        if row[4] >= 0
    ]
    seen = [
        _annotation(image, box, number) | {"score": float(score)}
        for image, parts in enumerate(found)
        for box, score, number in zip(*map(np.asarray, parts), strict=True)
    ]
    if not truth or not seen:
        return {"map": 0.0, "map_50": 0.0}
    for number, one in enumerate(truth, start=1):
        one["id"] = number
    # It tells of every step on the standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        right = COCO()
        right.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(targets))],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": truth,
        }
        right.createIndex()
        evaluation = COCOeval(right, right.loadRes(seen), "bbox")
        # Small, medium and large boxes would be counted apart as well, in four times
        # the time.
        evaluation.params.areaRng = [evaluation.params.areaRng[0]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.maxDets = [MOST_BOXES]
        evaluation.evaluate()
        evaluation.accumulate()
    # Overlaps, recalls, classes, sizes, detections; -1 for classes that do not occur.
    precision = evaluation.eval["precision"]
    return {"map": _mean(precision), "map_50": _mean(precision[:1])}


def _mean(precision: np.ndarray) -> float:
    return float(precision[precision > -1].mean())


def _annotation(image: int, box: Any, number: Any) -> dict[str, Any]:
    top, left, bottom, right = (float(x) for x in box)
    size = [max(right - left, 0.0), max(bottom - top, 0.0)]
    return {
        "image_id": image,
        "category_id": int(number),
        "bbox": [left, top, *size],
        "area": size[0] * size[1],
        "iscrowd": 0,
    }
