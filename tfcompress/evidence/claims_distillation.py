"""Claims on distillation, all of Beyer et al. 2021."""

from __future__ import annotations

import functools

from tfcompress.evidence import papers
from tfcompress.evidence.claim import Claim, Use
from tfcompress.evidence.rules import distillation
from tfcompress.evidence.verdict import MAJORITY, NOISE

_OURS = (
    "Ours are small ResNets on digits and on 3,840 images of Fashion-MNIST, and a "
    "factorized ResNet on digits"
)
_NOISE_MAJORITY = f"{NOISE} {MAJORITY}"
_TRAINING = ("distill", "compress", "fine_tune")
_CONSISTENT = tuple(
    Use(stage=stage, option="views.mode", values=("consistent", "function_matching"))
    for stage in _TRAINING
)

DISTILLATION_CLAIMS = (
    Claim(
        key="consistent-over-fixed",
        title="Consistent views beat a fixed teacher",
        paper=papers.BEYER,
        section="section 3.1.1, figure 3",
        statement=(
            "A student that sees the same crop as its teacher gets better than one "
            "whose teacher's answers were computed once for each image."
        ),
        context=(
            "Found on Flowers102 and other small data sets, and on ImageNet, where the "
            f"student of a fixed teacher overfits after 600 epochs. {_OURS}."
        ),
        rests=("tfcompress.distill.spec.ViewSpec.mode",),
        uses=_CONSISTENT,
        benchmark="patience",
        result="patience",
        rule=functools.partial(distillation.views, better="consistent", worse="fixed"),
        rule_text=f"{distillation.VIEWS_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="consistent-over-independent",
        title="Consistent views beat independent ones",
        paper=papers.BEYER,
        section="section 3.1.1, figure 3",
        statement=(
            "A student that sees the same crop as its teacher gets better than one "
            "that sees another crop of the image."
        ),
        context=f"Found on Flowers102 and other small data sets. {_OURS}.",
        rests=("tfcompress.distill.spec.ViewSpec.mode",),
        uses=_CONSISTENT,
        benchmark="patience",
        result="patience",
        rule=functools.partial(
            distillation.views, better="consistent", worse="independent"
        ),
        rule_text=f"{distillation.VIEWS_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="mixup-short-long",
        title="Mixup loses in short runs and wins in long ones",
        paper=papers.BEYER,
        section="section 3.2, table 3",
        statement=(
            "Function matching, which adds mixup to consistent views, is a little "
            "worse at short schedules and better at long ones."
        ),
        context=(
            "On ImageNet it is 1.06 points behind at 30 epochs and 0.60 ahead at 4800. "
            f"{_OURS}."
        ),
        rests=(
            "tfcompress.distill.spec.ViewSpec.mode",
            "tfcompress.musco.task.Classification.trainer",
        ),
        uses=tuple(
            Use(stage=stage, option="views.mode", values=("function_matching",))
            for stage in _TRAINING
        ),
        benchmark="patience",
        result="patience",
        rule=distillation.mixup,
        rule_text=(
            f"{distillation.MIXUP_TEXT} {distillation.CLEAR_TEXT} Supports or "
            "contrasts if more than half of the experiments do, else undecided."
        ),
    ),
    Claim(
        key="patience",
        title="A patient teacher: longer goes on helping",
        paper=papers.BEYER,
        section="sections 3.1.2 and 3.2, figure 4, table 3",
        statement=(
            "With consistent views the student goes on getting better for many more "
            "epochs than supervised training takes, without overfitting."
        ),
        context=f"Found to 9600 epochs on ImageNet, a million on Flowers102. {_OURS}.",
        rests=("tfcompress.distill.presets.PAPER_RUNS", "tfcompress.distill.fit"),
        uses=(Use(stage="distill"),),
        benchmark="patience",
        result="patience",
        rule=distillation.patience,
        rule_text=f"{distillation.PATIENCE_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="labels-overfit",
        title="Long runs by labels alone overfit",
        paper=papers.BEYER,
        section="section 3.9, figure 7, table 3",
        statement=(
            "The same long schedule without a teacher, by labels, overfits: accuracy "
            "falls again."
        ),
        context=(
            "On ImageNet the best run by labels has 78.15 % at 1200 epochs and 76.59 % "
            f"at 4800. {_OURS}; the last gets more epochs by labels, as many as the "
            "teacher's passes cost."
        ),
        rests=(
            "tfcompress.musco.tuning.FineTuning.by",
            "tfcompress.stages.fine_tune.FineTune.by",
            "tfcompress.stages.training.DistillationTraining.label_weight",
        ),
        uses=(
            Use(stage="distill"),
            Use(stage="compress"),
            Use(stage="fine_tune", option="by", values=("distillation",)),
        ),
        benchmark="patience",
        result="patience",
        rule=distillation.overfit,
        rule_text=f"{distillation.OVERFIT_TEXT} {_NOISE_MAJORITY}",
    ),
    Claim(
        key="warm-start",
        title="A start with weights helps short runs",
        paper=papers.BEYER,
        section="section 3.5, figure 5 right",
        statement=(
            "A student that starts with pretrained weights is ahead in short runs; the "
            "lead is gone in long ones."
        ),
        context=(
            "On ImageNet, from a network trained on other images: more than two points "
            "in short runs, level at 1200 epochs, slightly behind at 4800. Ours starts "
            "from its own teacher, factorized to a quarter of the MACs, on digits."
        ),
        rests=("tfcompress.musco.compress", "tfcompress.surgery.factorize"),
        uses=(
            Use(stage="compress"),
            Use(stage="fine_tune"),
            Use(stage="distill", option="student.load"),
        ),
        benchmark="warm_start",
        result="warm_start",
        rule=distillation.warm_start,
        rule_text=f"{distillation.WARM_TEXT} {distillation.CLEAR_TEXT}",
    ),
    Claim(
        key="batch-norm-costs",
        title="Batch norm costs under function matching",
        paper=papers.BEYER,
        section="section 3.6, table 3",
        statement=(
            "Under function matching a student with batch normalization ends lower "
            "than one with group normalization."
        ),
        context=(
            "MobileNet v3 on ImageNet: 72.32 % instead of 74.60 % at 300 epochs. Ours "
            "does not train the other student: it asks whether statistics of mixed "
            "images are the reason, on a MobileNetV2 and Fashion-MNIST."
        ),
        rests=(
            "tfcompress.distill.Distiller.recalibrate",
            "tfcompress.stages.distill.Distill.recalibrate",
        ),
        uses=(Use(stage="distill", option="recalibrate"),),
        benchmark="distillation_runs",
        result="distillation_runs",
        rule=distillation.batch_norm,
        rule_text=f"{distillation.BATCH_NORM_TEXT} {_NOISE_MAJORITY}",
    ),
)
