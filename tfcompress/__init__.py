"""tfcompress makes trained Keras networks small enough to ship.

`import tfcompress` is enough for `keras.models.load_model` to read `.keras` files
with factorized layers; it does not import TensorFlow by itself.
"""

import importlib
import importlib.abc
import importlib.util
import sys

from tfcompress._lazy import lazy as _lazy

__version__ = "0.1.0"

_NAMES = {
    "Budget": "ranks",
    "Budgeted": "ranks",
    "Compression": "musco",
    "Dataset": "data",
    "DatasetSpec": "data",
    "Distiller": "distill",
    "Energy": "ranks",
    "FineTuning": "musco",
    "Fixed": "ranks",
    "Plan": "ranks",
    "Ratio": "ranks",
    "Task": "musco",
    "VBMF": "ranks",
    "ViewSpec": "distill",
    "collect_moments": "statistics",
    "compress": "musco",
    "evaluate_tflite": "deploy",
    "expand": "surgery",
    "export_onnx": "deploy",
    "export_saved_model": "deploy",
    "export_tflite": "deploy",
    "factorize": "surgery",
    "inspect_tflite": "deploy",
    "layer_specs": "cost",
    "load_dataset": "data",
    "measure_sensitivity": "sensitivity",
    "measure_latency": "deploy",
    "model_cost": "cost",
    "recalibrate_batch_norm": "surgery",
}

__getattr__, __dir__ = _lazy(__name__, _NAMES)
__all__ = ["__version__", *_NAMES]  # noqa: PLE0604


class _RegisterLayers(importlib.abc.MetaPathFinder):
    """Registers the factorized layers right after `keras` is imported.

    Registration needs Keras, and Keras needs TensorFlow, which takes seconds; but
    `import tfcompress; import keras; keras.models.load_model(...)` has to work.
    """

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module):
            load(module)
            importlib.import_module("tfcompress.layers")

        spec.loader.exec_module = load_and_register
        return spec


if "keras" in sys.modules:
    importlib.import_module("tfcompress.layers")
else:
    sys.meta_path.insert(0, _RegisterLayers())
