"""What is collected where, and what all tests need of TensorFlow."""

import importlib.util
import os

collect_ignore = []

if not importlib.util.find_spec("ml_metadata"):
    # Real TFX has an environment of its own: `make test-tfx`, which names the folder,
    # and so fails where TFX is missing. (`tfx` is also the name of the tests' folder.)
    collect_ignore.append("tfx")
    # On a CPU, convolutions with the channels first are oneDNN's; TensorFlow turns that
    # on by itself only on some processors. Before TensorFlow is imported.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
