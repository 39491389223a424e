"""Deployment: write a ``.tflite`` file, then check, score and time that very file."""

from tfcompress.deploy.evaluate import (
    ModelInputError,
    TensorInfo,
    TFLiteModel,
    evaluate_tflite,
)
from tfcompress.deploy.export import CalibrationError, ExportError, export_tflite
from tfcompress.deploy.latency import Latency, measure_latency
from tfcompress.errors import ModelFileError

__all__ = [
    "CalibrationError",
    "ExportError",
    "Latency",
    "ModelFileError",
    "ModelInputError",
    "TFLiteModel",
    "TensorInfo",
    "evaluate_tflite",
    "export_tflite",
    "measure_latency",
]
