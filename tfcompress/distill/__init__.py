"""Distillation by function matching: views, losses, the Distiller and its training."""

from tfcompress._lazy import lazy

_NAMES = {
    "DistillationError": "distiller",
    "Distiller": "distiller",
    "Matching": "matching",
    "Supervised": "training",
    "ViewError": "spec",
    "ViewSpec": "spec",
    "Views": "views",
    "as_logits": "losses",
    "classify": "metrics",
    "epochs_and_steps": "training",
    "evaluate": "metrics",
    "fit": "training",
    "kl_divergence": "losses",
    "make_optimizer": "schedule",
    "make_views": "views",
    "output_divergence": "divergence",
    "output_kind": "losses",
    "regression_divergence": "divergence",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
