"""Quantization-aware training, pruning and clustering with tfmot."""

from tfcompress._lazy import lazy

_NAMES = {
    "QuantizedModel": "aware",
    "Training": "training",
    "cluster": "sparse",
    "prune": "sparse",
    "quantize_aware": "aware",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
