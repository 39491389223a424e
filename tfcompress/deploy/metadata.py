"""What a `.tflite` file says of itself: one JSON entry in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import flatbuffers
import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfcompress import __version__
from tfcompress.deploy.forms import ExportError

NAME = "tfcompress"
_IDENTIFIER = b"TFL3"


def described(
    content: bytes,
    model: keras.Model,
    *,
    quantization: str,
    given: Mapping[str, Any] | None,
) -> bytes:
    """A file with its description in it.

    Args:
        content: the bytes of a `.tflite` file.
        model: the Keras model that it was made of.
        quantization: its form.
        given: what the caller says of it, such as labels; JSON.

    Returns:
        The bytes of the file with an entry "tfcompress" in its metadata.

    Raises:
        ExportError: what was given is no JSON.
    """
    entry = {
        "quantization": quantization,
        "content_sha256": content_hash(content),
        **model_description(model, given),
    }
    text = json.dumps(entry, sort_keys=True)
    unpacked = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    unpacked.buffers.append(buffer)
    metadata = schema.MetadataT()
    metadata.name = NAME
    metadata.buffer = len(unpacked.buffers) - 1
    unpacked.metadata = [*(unpacked.metadata or []), metadata]
    builder = flatbuffers.Builder(len(content) + len(text) + 1024)
    builder.Finish(unpacked.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def model_description(
    model: keras.Model, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What any exported form says of its model: versions, hash, what the caller says.

    Args:
        model: the Keras model.
        given: plain data; goes before the rest.

    Raises:
        ExportError: what was given is no JSON.
    """
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"`metadata` must be plain data that JSON can hold ({error}). "
            f"Received: {given!r}"
        ) from error
    return {
        "tfcompress": __version__,
        "keras": keras.__version__,
        "model": model.name,
        "model_sha256": model_hash(model),
        **(given or {}),
    }


def read_metadata(content: bytes) -> dict[str, Any] | None:
    """The entry that `described` wrote; None where there is none, or no sound one."""
    model = schema.Model.GetRootAs(content, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == NAME.encode():
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            try:
                found = json.loads(bytes(data).decode())
            except (TypeError, ValueError):
                return None
            return found if isinstance(found, dict) else None
    return None


def model_hash(model: keras.Model) -> str:
    """SHA-256 of a model's weights: of their shapes, types and values, in order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.asarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def content_hash(content: bytes) -> str:
    """SHA-256 of what a file computes: operations, tensors, constants; no metadata.

    The same for files that hold this in another order of bytes.
    """
    model = schema.Model.GetRootAs(content, 0)
    digest = hashlib.sha256()
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            digest.update(_tensor_line(tensor))
            data = model.Buffers(tensor.Buffer()).DataAsNumpy()
            if not isinstance(data, int):
                digest.update(data.tobytes())
        for index in range(graph.OperatorsLength()):
            node = graph.Operators(index)
            code = model.OperatorCodes(node.OpcodeIndex())
            wires = [
                *(node.Inputs(i) for i in range(node.InputsLength())),
                -2,
                *(node.Outputs(i) for i in range(node.OutputsLength())),
            ]
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            digest.update(f"{builtin}{code.CustomCode()}{wires}".encode())
    return digest.hexdigest()


def _tensor_line(tensor: Any) -> bytes:
    shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
    scales: list[bytes] = []
    quantization = tensor.Quantization()
    if quantization is not None and quantization.ScaleLength():
        scales = [quantization.ScaleAsNumpy().tobytes()]
        if quantization.ZeroPointLength():
            scales.append(quantization.ZeroPointAsNumpy().tobytes())
    return f"{tensor.Type()}{shape}".encode() + b"".join(scales)
