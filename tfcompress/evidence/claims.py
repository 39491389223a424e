"""All claims."""

from __future__ import annotations

from tfcompress.evidence.claims_distillation import DISTILLATION_CLAIMS
from tfcompress.evidence.claims_loop import LOOP_CLAIMS
from tfcompress.evidence.claims_ranks import RANK_CLAIMS

CLAIMS = (*LOOP_CLAIMS, *RANK_CLAIMS, *DISTILLATION_CLAIMS)
