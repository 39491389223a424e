"""The iterative loop: factorize, recalibrate, fine-tune, accept or roll back."""

from tfcompress._lazy import lazy

_NAMES = {
    "Compression": "result",
    "FineTuning": "tuning",
    "Round": "result",
    "Task": "task",
    "as_batches": "start",
    "compress": "rounds",
    "factorize_once": "once",
    "musco": "passes",
    "progressive": "rounds",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
