"""Export of Keras models to TFLite, verified on the written file."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfcompress.deploy.calibration import CalibrationError, calibration_samples
from tfcompress.deploy.flatbuffer import float_kernel_ops, foreign_ops, read_ops
from tfcompress.deploy.interface import ExportError, Interface, describe

__all__ = ["CalibrationError", "ExportError", "export_tflite"]

QUANTIZATIONS = ("float32", "float16", "dynamic", "int8")
SIGNATURE = "serving_default"
MAX_CALIBRATION_SAMPLES = 500


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str = "float32",
    calibration: Any = None,
    io_dtype: str = "float32",
    input_shapes: Any = None,
) -> Path:
    """Writes a model as a ``.tflite`` file of built-in operations and verifies it.

    The file holds the model in inference mode under the signature
    ``serving_default``. Its inputs bear the model's own names: dict keys, else the
    names of `model.inputs`, else (subclassed models) ``inputs``. TFMA feeds a TFLite
    model by these names, so they must equal the tf.Example feature keys.

    Args:
        model: a built Keras model with the TensorFlow backend; it is not changed.
        path: file to write. Missing folders are made; an existing file is replaced
            only by a complete and verified one.
        quantization: `"float32"`; `"float16"` (weights stored as float16);
            `"dynamic"` (int8 weights, float activations; the converter leaves
            tensors of fewer than 1024 elements in float); `"int8"` (integer only).
        calibration: for `"int8"`, an iterable of input batches without labels, each
            an array of shape `(batch, ...)`, or a dict or tuple of arrays for a
            model with several inputs; a single array or dict counts as one batch.
            At most 500 samples are read, and held in memory. The other
            quantizations do not read it.
        io_dtype: `"float32"`, or `"int8"` with `quantization="int8"`.
        input_shapes: replaces the model's input shapes, batch first, `None` where
            free: one shape, a list, or `{input name: shape}`; a `tf.TensorSpec`
            gives the dtype too. For a model with one input a new name renames it.

    Returns:
        The path of the file.

    Raises:
        ExportError: an argument is wrong, the model cannot be converted with
            built-in operations, the path cannot be written, or the file fails the
            verification (which for `"int8"` includes that every convolution, dense
            and matmul operation works on int8 tensors).
        CalibrationError: calibration data is missing or does not fit the model.

    Example:
        >>> export_tflite(model, "out/model.tflite", quantization="int8",
        ...               calibration=train.map(lambda x, y: x).take(4))
        PosixPath('out/model.tflite')

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 2 (int8).
    """
    path = Path(path)
    _check_options(quantization, io_dtype)
    interface = describe(model, input_shapes)
    samples = None
    if quantization == "int8":
        samples = calibration_samples(calibration, interface, MAX_CALIBRATION_SAMPLES)
    with _written_whole(path) as temporary:
        content = _convert(model.name, interface, quantization, samples, io_dtype)
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise _unwritable(path, error) from error
        _verify(temporary, path, interface, quantization)
    return path


def _check_options(quantization: str, io_dtype: str) -> None:
    if quantization not in QUANTIZATIONS:
        raise ExportError(
            f"`quantization` must be one of {QUANTIZATIONS}. Received: {quantization!r}"
        )
    if io_dtype not in ("float32", "int8"):
        raise ExportError(
            f"`io_dtype` must be 'float32' or 'int8'. Received: {io_dtype!r}"
        )
    if io_dtype == "int8" and quantization != "int8":
        raise ExportError(
            "io_dtype='int8' needs quantization='int8', as only an integer model has "
            f"integer inputs. Received: quantization={quantization!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "TFLite export needs the TensorFlow backend of Keras; set "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}"
        )


def _convert(
    name: str,
    interface: Interface,
    quantization: str,
    samples: list[dict] | None,
    io_dtype: str,
) -> bytes:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            _save(interface, folder)
            converter = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=[SIGNATURE]
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if quantization != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if quantization == "int8":
                converter.target_spec.supported_ops = [
                    tf.lite.OpsSet.TFLITE_BUILTINS_INT8
                ]
                converter.representative_dataset = lambda: iter(samples)
                converter.inference_input_type = tf.as_dtype(io_dtype)
                converter.inference_output_type = tf.as_dtype(io_dtype)
            return converter.convert()
        # The converter lets through whatever its many passes raise.
        except Exception as error:
            raise ExportError(
                f"Model '{name}' cannot be converted to TFLite ({quantization}): "
                f"{_reason(error)}"
            ) from error


def _save(interface: Interface, folder: str) -> None:
    # One dict argument keeps names that are no Python identifiers ("my-image").
    function = tf.function(interface.call, autograph=False)
    concrete = function.get_concrete_function(interface.specs)
    module = tf.Module()
    # Tracked through the Keras model, variables reach the file as resources that
    # calibration cannot read; tracked directly, they are frozen into constants.
    module.captured = list(concrete.graph.variables)
    module.function = function
    tf.saved_model.save(module, folder, signatures={SIGNATURE: concrete})


def _reason(error: Exception) -> str:
    text = str(error)
    unsupported = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE)
    if unsupported and re.search(r"xb?f16>", text):
        return (
            "it computes in half precision, for which TFLite has few operations; "
            "rebuild it with the 'float32' dtype policy and the same weights."
        )
    if unsupported:
        return (
            f"no built-in operation for {', '.join(unsupported)}; replace the layers "
            "that use them."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes the Python chatter of saving and converting; C++ logs are the process's."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` that becomes `path` only on success."""
    if path.is_dir():
        raise ExportError(f"The export path is a folder; name a file. Received: {path}")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tried before the conversion, so that a bad path costs no time.
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"The TFLite file cannot be written ({error.strerror or error}); choose a path "
        f"in a folder that can be written. Received: {path}"
    )


def _verify(written: Path, path: Path, interface: Interface, quantization: str) -> None:
    ops = read_ops(written.read_bytes())
    foreign = foreign_ops(ops)
    if foreign:
        raise ExportError(
            f"The export of '{path.name}' needs operations outside the built-ins: "
            f"{', '.join(foreign)}; replace the layers that use them."
        )
    try:
        interpreter = Interpreter(
            str(written),
            experimental_op_resolver_type=(
                OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"The export of '{path.name}' does not load in LiteRT: {_reason(error)}"
        ) from error
    names = interpreter.get_signature_list().get(SIGNATURE, {}).get("inputs", [])
    if set(names) != set(interface.specs):
        raise ExportError(
            f"The export of '{path.name}' lost its input names: the file has {names}, "
            f"the model {list(interface.specs)}; an input must influence an output, "
            "and its name should be made of letters, digits and underscores."
        )
    if quantization == "int8":
        floats = float_kernel_ops(ops)
        if floats:
            raise ExportError(
                f"The export of '{path.name}' is not integer throughout: "
                f"{', '.join(floats)}; leave these layers out or use "
                "quantization='dynamic'."
            )
