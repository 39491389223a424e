"""Claims on the loop: rounds, weakened ranks, tasks, recalibration."""

from __future__ import annotations

import functools

from tfcompress.evidence import papers
from tfcompress.evidence.claim import Claim, Use
from tfcompress.evidence.rules import loop
from tfcompress.evidence.verdict import MAJORITY, NOISE

_SMALL = (
    "Ours is a ResNet-8 and a VGG on 12,800 images of Fashion-MNIST, six epochs of "
    "fine-tuning in all"
)

_NOISE_MAJORITY = f"{NOISE} {MAJORITY}"

LOOP_CLAIMS = (
    Claim(
        key="musco-iterating",
        title="Rounds beat one shot, with EVBMF ranks",
        paper=papers.MUSCO,
        section="abstract",
        statement=(
            "Alternating factorization at ranks from EVBMF with fine-tuning loses less "
            "than factorizing once and fine-tuning."
        ),
        context=(
            "Found on large image classifiers and a detector; the abstract does not "
            f"say that both sides were fine-tuned as long. {_SMALL}, the same for both."
        ),
        rests=("tfcompress.musco.musco", "tfcompress.ranks.vbmf.VBMF"),
        uses=(Use(stage="compress", option="selector", values=("vbmf",)),),
        benchmark="iterative_vs_oneshot",
        result="iterative_vs_oneshot",
        rule=functools.partial(
            loop.iterating,
            pairs=(
                ("MUSCO, 2 passes", "one-shot VBMF"),
                ("MUSCO, 3 passes", "one-shot VBMF"),
            ),
        ),
        rule_text=f"{loop.ITERATING_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="musco-iterating-budgeted",
        title="Rounds beat one shot, with Budgeted ranks",
        paper=papers.MUSCO,
        section="abstract",
        statement=(
            "Alternating factorization and fine-tuning loses less than one shot, also "
            "with the ranks of our allocator."
        ),
        context=(
            f"The paper has other ranks. {_SMALL}. Rounds have a second use, which "
            "this does not test: one that loses too much is rolled back."
        ),
        rests=(
            "tfcompress.musco.compress",
            "tfcompress.stages.compress.Compress.rounds",
        ),
        uses=(Use(stage="compress", option="rounds", above=1),),
        benchmark="iterative_vs_oneshot",
        result="iterative_vs_oneshot",
        rule=functools.partial(
            loop.iterating, pairs=(("progressive, 3 rounds", "one-shot Budgeted"),)
        ),
        rule_text=f"{loop.ITERATING_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="musco-weakened",
        title="Weakened ranks beat the extreme rank",
        paper=papers.MUSCO,
        section="the authors' code, and their log of VGG-16",
        statement=(
            "Ranks that go only part of the way to the extreme rank, in several "
            "passes, lose less than the extreme rank at once, at the same cost."
        ),
        context=(
            "In the log two passes of weakened ranks keep 91.16 % top-5 at 3.59x, "
            "one pass of extreme ranks 87.97 % at 3.71x; at 4x one pass of weakened "
            "ranks is ahead of two. Ours is a perceptron on digits, the same number of "
            "epochs for both; one held-out image is 0.15 points."
        ),
        rests=(
            "tfcompress.ranks.vbmf.VBMF.weakening",
            "tfcompress.ranks.vbmf.weakened_rank",
        ),
        uses=(
            Use(stage="compress", option="selector", values=("vbmf",)),
            Use(stage="factorize", option="selector", values=("vbmf",)),
        ),
        benchmark="weakened_rank",
        result="weakened_rank",
        rule=loop.weakened,
        rule_text=f"{loop.WEAKENED_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="musco-tasks",
        title="The loop holds for several tasks",
        paper=papers.MUSCO,
        section="abstract",
        statement="The loop keeps the metric of a variety of tasks.",
        context=(
            "The paper has image classification and object detection. Ours are "
            "detection and segmentation on scenes of Fashion-MNIST garments, and the "
            "rotation and scale of digits, at a third of the MACs."
        ),
        rests=("tfcompress.musco.Task", "tfcompress.musco.compress"),
        uses=(Use(stage="compress"),),
        benchmark="tasks",
        result="tasks",
        rule=loop.tasks,
        rule_text=f"{loop.TASKS_TEXT} {MAJORITY}",
    ),
    Claim(
        key="eagleeye-recalibration",
        title="Recalibrated batch norm wins accuracy back",
        paper=papers.EAGLEEYE,
        section="section 3.3",
        statement=(
            "After surgery the statistics of batch normalization are stale; taking "
            "them anew from a few batches wins accuracy back without any training."
        ),
        context=(
            "Found on pruned MobileNet V1 and ResNet-50. Ours are networks with plain "
            "factors, which like pruning know nothing of the activations."
        ),
        rests=(
            "tfcompress.surgery.recalibrate_batch_norm",
            "tfcompress.musco.musco",
        ),
        uses=tuple(
            Use(stage=stage, option="calibration_steps", values=(0,))
            for stage in ("compress", "factorize")
        ),
        benchmark="data_aware",
        result="data_aware",
        rule=functools.partial(loop.recalibration, factors=("plain",)),
        rule_text=f"{loop.RECALIBRATION_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="eagleeye-recalibration-data",
        title="Recalibration helps factors that know the data",
        paper=papers.EAGLEEYE,
        section="section 3.3",
        statement=(
            "Taking the statistics of batch normalization anew wins accuracy back also "
            "after factorization with factors that know the data."
        ),
        context=(
            "The paper's surgery does not know the data. Factors that lose least of a "
            "layer's outputs shift its activations less to begin with; they are the "
            "default here, and are recalibrated like any others."
        ),
        rests=(
            "tfcompress.surgery.recalibrate_batch_norm",
            "tfcompress.musco.factorize_once",
            "tfcompress.stages.compress.Compress.calibration_steps",
        ),
        uses=tuple(
            Use(stage=stage, option="calibration_steps", above=0)
            for stage in ("compress", "factorize")
        ),
        benchmark="data_aware",
        result="data_aware",
        rule=functools.partial(
            loop.recalibration, factors=("data-aware", "asymmetric")
        ),
        rule_text=f"{loop.RECALIBRATION_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="eagleeye-correlation",
        title="Recalibrated candidates tell the final order",
        paper=papers.EAGLEEYE,
        section="section 4.1",
        statement=(
            "With recalibrated statistics the accuracy before fine-tuning tells better "
            "which candidate will be best after it."
        ),
        context=(
            "Found on pruned networks. Our candidates are factorized, and differ in "
            "method and in cost; of those in passes the last pass is taken."
        ),
        rests=("tfcompress.musco.result.Round",),
        uses=(Use(stage="compress"),),
        benchmark="iterative_vs_oneshot",
        result="iterative_vs_oneshot",
        rule=loop.correlation,
        rule_text=f"{loop.CORRELATION_TEXT} {_NOISE_MAJORITY}",
    ),
)
