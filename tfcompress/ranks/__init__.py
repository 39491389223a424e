"""Rank selectors: layer specs and a budget in, a `Plan` out. One file each."""

from tfcompress._lazy import lazy

# Selectors by the name that recipes and the command line use.
SELECTORS = {
    "budgeted": "Budgeted",
    "energy": "Energy",
    "fixed": "Fixed",
    "ratio": "Ratio",
    "vbmf": "VBMF",
}

_NAMES = {
    "VBMF": "vbmf",
    "Budget": "plan",
    "Budgeted": "budgeted",
    "Energy": "energy",
    "Fixed": "fixed",
    "LatencyEstimate": "plan",
    "LayerPlan": "plan",
    "Plan": "plan",
    "RankSelector": "base",
    "Ratio": "ratio",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = ["SELECTORS", *_NAMES]  # noqa: PLE0604
