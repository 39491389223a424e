"""Stages as TFX components (the extra `tfx`), and `run_fn` for the stock Trainer."""

from tfcompress._lazy import lazy

_NAMES = {
    "Compress": "component",
    "Distill": "component",
    "EvaluateTFLite": "evaluation",
    "ExportTFLite": "component",
    "Factorize": "component",
    "FineTune": "component",
    "Quantize": "component",
    "run_fn": "trainer",
    "save_model": "artifacts",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
