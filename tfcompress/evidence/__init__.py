"""Which claims of papers tfcompress rests on, and whether they held here.

A claim is data: the paper, what rests on it, the benchmark that tests it, and a rule
that turns the committed result of that benchmark into a verdict: it *supports* the
claim, *contrasts* with it, leaves it *undecided*, or there is none yet (*not tested*).
Nothing here imports TensorFlow.
"""

from tfcompress._lazy import lazy

_NAMES = {
    "CLAIMS": "claims",
    "Claim": "claim",
    "EvidenceError": "results",
    "PAPERS": "papers",
    "Use": "claim",
    "UsedClaim": "runs",
    "Verdict": "verdict",
    "bibtex": "papers",
    "claims_of": "runs",
    "claims_of_run": "runs",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
