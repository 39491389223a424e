"""Claims on ranks and on time."""

from __future__ import annotations

from tfcompress.evidence import papers
from tfcompress.evidence.claim import Claim, Use
from tfcompress.evidence.rules import ranks, speed
from tfcompress.evidence.verdict import MAJORITY, NOISE

_NOISE_MAJORITY = f"{NOISE} {MAJORITY}"

RANK_CLAIMS = (
    Claim(
        key="evbmf-rank",
        title="EVBMF finds the rank in the noise",
        paper=papers.NAKAJIMA,
        section="theorem 2 and section 4",
        statement=(
            "Empirical variational Bayes tells the rank of a noisy matrix and the "
            "variance of its noise, without anything to tune."
        ),
        context=(
            "The model is a low-rank matrix plus white noise, and so is our data, with "
            "signals that stand clear of the noise. Whether trained weights are such a "
            "matrix is another question: in small networks on digits EVBMF finds "
            "nothing above the noise in most convolutions."
        ),
        rests=("tfcompress.linalg.evbmf_rank", "tfcompress.ranks.vbmf.VBMF"),
        uses=(
            Use(stage="compress", option="selector", values=("vbmf",)),
            Use(stage="factorize", option="selector", values=("vbmf",)),
        ),
        benchmark="evbmf_ranks",
        result="evbmf_ranks",
        rule=ranks.planted,
        rule_text=f"{ranks.PLANTED_TEXT} {MAJORITY}",
    ),
    Claim(
        key="evbmf-again",
        title="EVBMF can be asked again of factorized weights",
        paper=papers.MUSCO_CODE,
        section="rank selection of later passes",
        statement=(
            "In later passes the extreme rank is that of EVBMF on the factors that the "
            "pass before has left."
        ),
        context=(
            "What the authors' code does. Cutting takes away the noise that EVBMF "
            "measures; tfcompress keeps the noise variance of the untouched weights."
        ),
        rests=(
            "tfcompress.linalg.evbmf_noise_variance",
            "tfcompress.ranks.plan.Plan.scores",
        ),
        uses=(Use(stage="compress", option="selector", values=("vbmf",)),),
        benchmark="evbmf_ranks",
        result="evbmf_ranks",
        rule=ranks.truncated,
        rule_text=f"{ranks.TRUNCATED_TEXT} {MAJORITY}",
    ),
    Claim(
        key="weight-error-layers",
        title="Weight errors do not compare across layers",
        paper=papers.SCHUURMANS,
        section="abstract",
        statement=(
            "The error of a layer's weights tells which decomposition of that layer "
            "costs less, but it tells less well which layer does."
        ),
        context=(
            "Found before fine-tuning, and so is ours: on the 3x3 convolutions of a "
            "ResNet-8 on digits. The cost is the divergence of the network's outputs."
        ),
        rests=(
            "tfcompress.sensitivity.measure_sensitivity",
            "tfcompress.ranks.budgeted.Budgeted",
        ),
        uses=(
            Use(stage="compress", option="selector", values=("budgeted",)),
            Use(stage="factorize", option="selector", values=("budgeted",)),
        ),
        benchmark="layer_errors",
        result="layer_errors",
        rule=ranks.layer_errors,
        rule_text=f"{ranks.LAYERS_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="macs-latency",
        title="Fewer MACs are not as much less time",
        paper=papers.HAJIMOLAHOSEINI,
        section="abstract",
        statement=(
            "A factorized network is deeper than before, which costs time: it saves "
            "less of it than of multiplications."
        ),
        context=(
            "Ours are five networks at a quarter of their MACs, `.tflite` files on one "
            "and two threads of an x86 processor."
        ),
        rests=(
            "tfcompress.deploy.LatencyTable",
            "tfcompress.deploy.measure_latency",
            "tfcompress.ranks.budget.Budget.latency",
        ),
        uses=(
            Use(stage="evaluate"),
            Use(stage="compress", option="target.latency"),
            Use(stage="factorize", option="target.latency"),
        ),
        benchmark="delivered_speedup",
        result="delivered_speedup",
        rule=speed.delivered,
        rule_text=f"{speed.DELIVERED_TEXT} {MAJORITY}",
    ),
    Claim(
        key="channel-alignment",
        title="Channels in multiples of four are faster",
        paper=papers.ALIGNMENT,
        section="the report",
        statement=(
            "A convolution is slower with 31 channels than with 32: numbers that are "
            "no multiple of four cost more than the next one that is."
        ),
        context=(
            "Reported of TFLite on the ARM processor of a Pixel 3 in 2020. Ours is "
            "LiteRT on one thread of an x86 processor, with wider registers."
        ),
        rests=(
            "tfcompress.ranks.base.RankSelector.round_to",
            "tfcompress.ranks.base.RankSelector.rounded",
        ),
        uses=tuple(
            Use(stage=stage, option="selector", values=("budgeted", "energy", "ratio"))
            for stage in ("compress", "factorize")
        ),
        benchmark="channel_alignment",
        result="channel_alignment",
        rule=speed.alignment,
        rule_text=f"{speed.ALIGNMENT_TEXT} {MAJORITY}",
    ),
)
