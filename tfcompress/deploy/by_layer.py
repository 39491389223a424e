"""Where a quantized file departs from the Keras model: layer by layer."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tfcompress.deploy.calibration import calibration_samples
from tfcompress.deploy.convert import layer_of
from tfcompress.deploy.export import export_tflite
from tfcompress.deploy.flatbuffer import read_ops
from tfcompress.deploy.interface import describe
from tfcompress.deploy.tflite_model import TFLiteModel, kernels

# Samples that are compared, at most: all their tensors are held at once.
_MAX_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far one operation's result is from that in the float32 file.

    Attributes:
        layer: the Keras layer that it computes; of an output its name.
        op: its kind.
        dtype: type of its result in the file.
        relative: root mean square of the difference over that of the float result.
        added: what `relative` is above the largest one among its operands: near 0 or
            below where the error came in with them.

    Example:
        >>> error = LayerError("conv", "CONV_2D", "int8", relative=0.02, added=0.015)
        >>> error.to_dict()["layer"]
        'conv'
    """

    layer: str
    op: str
    dtype: str
    relative: float
    added: float

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self)


def layer_errors(
    path: str | os.PathLike, model: keras.Model, inputs: Any
) -> list[LayerError]:
    """Compares every operation of a file with the same one in float32.

    The model is exported once more, to a float32 file; results are matched by their
    names, so operations that the converter fused otherwise are left out.

    Args:
        path: a `.tflite` file of the model.
        model: the Keras model it was made of.
        inputs: as calibration data of `export_tflite`; 64 samples are used.

    Returns:
        One entry for each operation, in the order of execution.

    Raises:
        ModelFileError: the file is no working TFLite model.
        CalibrationError: the inputs do not fit the model.

    Example:
        >>> errors = layer_errors("small.tflite", model, images)      # doctest: +SKIP
        >>> max(errors, key=lambda error: error.added)                # doctest: +SKIP
        LayerError(layer='head', op='FULLY_CONNECTED', dtype='int8', ...)
    """
    file = TFLiteModel(path)
    samples = calibration_samples(inputs, describe(model), _MAX_SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        plain = export_tflite(model, Path(folder) / "float32.tflite")
        expected = _results(plain, samples)
    found = _results(path, samples)
    ops = read_ops(Path(path).read_bytes())
    relative: dict[str, float] = {}
    errors = []
    for op in ops:
        name = op.place
        if name in expected and name in found and op.name != "QUANTIZE":
            relative[name] = _relative(found[name], expected[name])
            before = max(relative.get(source, 0.0) for source in op.sources)
            errors.append(
                LayerError(
                    layer=layer_of(model, name) or _output_name(file, name),
                    op=op.name,
                    dtype=op.results[0].lower(),
                    relative=relative[name],
                    added=relative[name] - before,
                )
            )
        elif op.sources:
            # Not compared: what comes in goes out.
            known = (relative.get(source, 0.0) for source in op.sources)
            relative[name] = max(known)
    return errors


def _output_name(file: TFLiteModel, name: str) -> str:
    return file.outputs[0].name if len(file.outputs) == 1 else name


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    difference = found.astype(np.float64) - expected
    return float(np.sqrt(np.mean(np.square(difference)))) / max(size, 1e-12)


def _results(
    path: str | os.PathLike, samples: list[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What every operation gives for the samples, by the name of its result."""
    interpreter = Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=kernels(use_xnnpack=False),
    )
    interpreter.allocate_tensors()
    file = TFLiteModel(path)
    written = {op.place for op in read_ops(Path(path).read_bytes())}
    details = [d for d in interpreter.get_tensor_details() if d["name"] in written]
    parts: dict[str, list[np.ndarray]] = {d["name"]: [] for d in details}
    # One at a time: a file of any batch size can do that.
    for sample in samples:
        for info in file.inputs:
            interpreter.set_tensor(info.index, info.quantize(sample[info.name]))
        interpreter.invoke()
        for detail in details:
            parts[detail["name"]].append(_real(interpreter, detail))
    return {name: np.stack(values) for name, values in parts.items()}


def _real(interpreter: Interpreter, detail: dict[str, Any]) -> np.ndarray:
    value = interpreter.get_tensor(detail["index"])
    scale, zero_point = detail["quantization"]
    if value.dtype.kind == "i" and scale:
        return (value.astype(np.float32) - zero_point) * np.float32(scale)
    return np.asarray(value, np.float32)
