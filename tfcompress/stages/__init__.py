"""Stages: what recipes, the command line and pipelines are made of. One file each.

Importing this package does not import TensorFlow.
"""

from tfcompress.stages.base import Context, Network, Stage, StageResult, load_model
from tfcompress.stages.compress import Compress
from tfcompress.stages.distill import Distill
from tfcompress.stages.evaluate import Evaluate
from tfcompress.stages.export_tflite import ExportTFLite
from tfcompress.stages.factorize import Factorize
from tfcompress.stages.fine_tune import FineTune
from tfcompress.stages.quantize import Quantize
from tfcompress.stages.teacher import Teacher

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Teacher,
        Distill,
        Compress,
        Factorize,
        FineTune,
        Quantize,
        ExportTFLite,
        Evaluate,
    )
}

__all__ = [
    "STAGES",
    "Compress",
    "Context",
    "Distill",
    "Evaluate",
    "ExportTFLite",
    "Factorize",
    "FineTune",
    "Network",
    "Quantize",
    "Stage",
    "StageResult",
    "Teacher",
    "load_model",
]
