"""Export of Keras models as ONNX, checked by ONNX Runtime."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.deploy.convert import layers_at, quiet_conversion
from tfcompress.deploy.export import written_whole
from tfcompress.deploy.forms import ExportError
from tfcompress.deploy.interface import Interface, describe
from tfcompress.deploy.metadata import NAME, model_description
from tfcompress.deploy.parity import check_parity


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    opset: int | None = None,
    input_shapes: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as `.onnx`, runs it by ONNX Runtime and compares the outputs.

    Inputs and outputs bear the same names as in the file of `export_tflite`, and have
    the same layout (channels last); the model is in inference mode.

    Args:
        model: a built Keras model with the TensorFlow backend and float32 weights; it
            is not changed.
        path: file to write; an existing one is replaced once the new one is whole.
        opset: version of the ONNX operators; what tf2onnx takes by default.
        input_shapes: see `export_tflite`.
        metadata: plain data that the file shall hold under "tfcompress", beside the
            versions and the hash of the weights.

    Returns:
        The path of the file.

    Raises:
        ExportError: the extra `onnx` is not installed, an operation has no ONNX
            counterpart, the outputs differ, or the path cannot be written.

    Example:
        >>> export_onnx(model, "model.onnx")  # doctest: +SKIP
        PosixPath('model.onnx')
    """
    path = Path(path)
    tf2onnx, runtime = _needed("tf2onnx"), _needed("onnxruntime")
    interface = describe(model, input_shapes)
    description = model_description(model, metadata)
    with written_whole(path) as temporary:
        content = _convert(tf2onnx, model, interface, opset)
        entry = content.metadata_props.add()
        entry.key, entry.value = NAME, json.dumps(description, sort_keys=True)
        temporary.write_bytes(content.SerializeToString())
        check_parity(path.name, interface, _runner(runtime, temporary))
    return path


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"ONNX export needs {module}: pip install 'tfcompress[onnx]'."
        ) from error


def _convert(
    tf2onnx: Any, model: keras.Model, interface: Interface, opset: int | None
) -> Any:
    names = list(interface.specs)

    def call(*inputs: Any) -> dict[str, Any]:
        return interface.call(dict(zip(names, inputs, strict=True)))

    function = tf.function(
        call, input_signature=list(interface.specs.values()), autograph=False
    )
    try:
        with quiet_conversion():
            content, _ = tf2onnx.convert.from_function(
                function, input_signature=list(interface.specs.values()), opset=opset
            )
    # The converter lets through whatever its many passes raise.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"Model '{model.name}' cannot be converted to ONNX: {first[:300]}"
        ) from error
    _refuse_unknown(model, content)
    return content


def _refuse_unknown(model: keras.Model, content: Any) -> None:
    """Raises where the converter has left TensorFlow's own operations in."""
    known = {schema.name for schema in _needed("onnx").defs.get_all_schemas()}
    foreign = [node for node in content.graph.node if node.op_type not in known]
    if foreign:
        names = ", ".join(sorted({node.op_type for node in foreign}))
        places = layers_at(model, [node.name for node in foreign])
        where = f" (in {', '.join(map(repr, places))})" if places else ""
        raise ExportError(
            f"Model '{model.name}' cannot be converted to ONNX: no operation for "
            f"{names}{where}; replace the layers that use them."
        )


def _runner(runtime: Any, path: Path) -> Any:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = runtime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run
