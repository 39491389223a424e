"""Quantize: quantization-aware training, after pruning or clustering where asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.distill.spec import ViewSpec
from tfcompress.errors import OptionError
from tfcompress.stages.base import Context, Stage, StageResult, choose, load_model
from tfcompress.stages.training import check_classification, check_number

if TYPE_CHECKING:
    from tfcompress.data import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(Stage):
    """Trains the latest model with the rounding of int8 in it, and writes the file.

    By the TensorFlow Model Optimization Toolkit; see `tfcompress.quantize`.

    Args:
        epochs: of quantization-aware training; of pruning and of clustering as well.
        batch_size: images per step.
        learning_rate: its peak.
        by: "distillation" (matching the float model) or "labels".
        sparsity: share of zeros that pruning makes first, in [0, 1); 0 does none.
        clusters: different numbers that clustering leaves in each kernel; 0 does none.
        calibration: training images that the ranges start from.
        views: what is seen in training.

    Raises:
        OptionError: an argument out of range.

    Example:
        >>> Quantize(sparsity=0.5, epochs=5).gives
        ('quantized',)
    """

    name = "quantize"
    needs = ("teacher",)
    gives = ("quantized",)

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 1e-4
    by: str = "distillation"
    sparsity: float = 0.0
    clusters: int = 0
    calibration: int = 256
    views: ViewSpec = dataclasses.field(
        default_factory=lambda: ViewSpec(mode="consistent", crop="mild")
    )

    def __post_init__(self) -> None:
        choose(self.by, {"distillation": 1, "labels": 1}, "way of training")
        check_number("learning_rate", self.learning_rate, positive=True)
        for name in ("epochs", "batch_size", "calibration"):
            if getattr(self, name) < 1:
                raise OptionError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        if not 0.0 <= self.sparsity < 1.0 or self.clusters < 0 or self.clusters == 1:
            raise OptionError(
                "sparsity must lie in [0, 1), clusters be 0 or at least 2. Received: "
                f"{self.sparsity} and {self.clusters}"
            )

    def check(self, data: Dataset) -> None:
        check_classification(self.name, data)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.quantize import Training, cluster, prune, quantize_aware

        data = context.data
        latest = next(
            inputs[key] for key in ("compressed", "student", "teacher") if key in inputs
        )
        model = load_model(latest, data)
        train = data.batches(
            "train",
            min(self.batch_size, data.sizes["train"]),
            shuffle_seed=context.seed,
            drop_remainder=True,
        )
        training = Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            by=self.by,
            views=self.views.for_data(data.mirror_symmetric),
            seed=context.seed,
        )
        options = {"training": training, "progress": context.progress}
        preserve = []
        if self.sparsity:
            model = prune(model, train, sparsity=self.sparsity, **options)
            preserve.append("sparsity")
        if self.clusters:
            model = cluster(
                model,
                train,
                clusters=self.clusters,
                preserve_sparsity=bool(self.sparsity),
                **options,
            )
            preserve.append("clusters")
        trained = quantize_aware(model, train, preserve=tuple(preserve), **options)
        path = trained.export(
            context.folder / f"{latest.stem}_quantized.tflite",
            calibration=data.calibration(self.calibration, seed=context.seed),
            metadata=data.metadata(),
        )
        figures = {
            "bytes": {"quantized": path.stat().st_size},
            "model": latest.stem,
            "kept": trained.kept,
            "history": trained.history,
        }
        return StageResult({"quantized": path}, figures)
