"""Distillation by function matching: views, losses, the Distiller and its training."""

from tfcompress._lazy import lazy

_NAMES = {
    "Consistency": "consistency",
    "DistillationError": "outputs",
    "Distiller": "distiller",
    "FeatureMatch": "features",
    "KINDS": "losses",
    "LOSSES": "losses",
    "Matching": "matching",
    "PAPER_VIEWS": "spec",
    "Samples": "samples",
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
    "numbered": "samples",
    "output_kind": "losses",
    "regression_divergence": "divergence",
    "verify_consistency": "consistency",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
