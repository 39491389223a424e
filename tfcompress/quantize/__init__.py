"""Quantization-aware training, pruning and clustering with tfmot."""

from tfcompress._lazy import lazy

_NAMES = {
    "AutoQuantization": "auto",
    "QuantizedModel": "aware",
    "Training": "training",
    "cluster": "sparse",
    "equalize": "equalization",
    "prune": "sparse",
    "quantize_auto": "auto",
    "quantize_aware": "aware",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
