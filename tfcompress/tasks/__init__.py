"""What each kind of data set is for: how its networks are judged and trained.

`task_of(data)` gives the stages one interface for classification, detection,
segmentation and regression.
"""

from tfcompress._lazy import lazy

_NAMES = {
    "Metric": "base",
    "average_precision": "precision",
    "compiled": "base",
    "decode_boxes": "boxes",
    "detection_divergence": "boxes",
    "detection_loss": "boxes",
    "task_of": "choice",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
