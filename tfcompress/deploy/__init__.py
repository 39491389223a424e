"""Deployment: write a ``.tflite`` file, then check, score and time that very file."""

from tfcompress._lazy import lazy

_NAMES = {
    "CalibrationError": "calibration",
    "Compared": "comparison",
    "Comparison": "comparison",
    "ExportError": "forms",
    "Exporter": "export",
    "Inspection": "inspection",
    "LayerError": "by_layer",
    "Latency": "latency",
    "LatencyCheck": "latency_table",
    "LatencyError": "single_layer",
    "LatencyTable": "latency_table",
    "ModelFileError": "tflite_model",
    "ModelInputError": "tflite_model",
    "QUANTIZATIONS": "forms",
    "TFLiteModel": "tflite_model",
    "TensorInfo": "tflite_model",
    "Thresholds": "thresholds",
    "compare_latency": "comparison",
    "cpu_model": "latency_cache",
    "evaluate_tflite": "evaluate",
    "export_onnx": "onnx",
    "export_saved_model": "saved_model",
    "export_tflite": "export",
    "inspect_tflite": "inspection",
    "layer_errors": "by_layer",
    "measure_latency": "latency",
}

__getattr__, __dir__ = lazy(__name__, _NAMES)
__all__ = list(_NAMES)  # noqa: PLE0604
