"""Deployment: write a ``.tflite`` file, then check, score and time that very file."""

from tfcompress.deploy.evaluate import (
    ModelInputError,
    TensorInfo,
    TFLiteModel,
    evaluate_tflite,
)
from tfcompress.deploy.export import CalibrationError, ExportError, export_tflite
from tfcompress.deploy.latency import Latency, measure_latency
from tfcompress.deploy.latency_cache import cpu_model
from tfcompress.deploy.latency_table import LatencyCheck, LatencyTable
from tfcompress.deploy.single_layer import LatencyError
from tfcompress.errors import ModelFileError

__all__ = [
    "CalibrationError",
    "ExportError",
    "Latency",
    "LatencyCheck",
    "LatencyError",
    "LatencyTable",
    "ModelFileError",
    "ModelInputError",
    "TFLiteModel",
    "TensorInfo",
    "cpu_model",
    "evaluate_tflite",
    "export_tflite",
    "measure_latency",
]
