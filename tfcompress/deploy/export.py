"""Export of Keras models to TFLite, verified on the written file."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress.deploy.calibration import calibration_samples
from tfcompress.deploy.convert import Signature, convert
from tfcompress.deploy.forms import ALLOWANCES, CALIBRATED, ExportError, check_form
from tfcompress.deploy.interface import Interface, describe
from tfcompress.deploy.metadata import described
from tfcompress.deploy.verify import verify
from tfcompress.errors import nearest

MAX_CALIBRATION_SAMPLES = 500


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantization: str = "float32",
    calibration: Any = None,
    io_dtype: str = "float32",
    input_shapes: Any = None,
    metadata: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    float_layers: Sequence[str] = (),
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
            tensors of fewer than 1024 elements in float); `"int8"` (integer only);
            `"16x8"` (int8 weights, int16 activations: more accurate, slow on a CPU);
            `"weight_int8"` and `"weight_int4"` (weights stored so and computed with
            in float; by ai-edge-quantizer, in the extra `edge`).
        calibration: for `"int8"` and `"16x8"`, an iterable of input batches without
            labels, each an array of shape `(batch, ...)`, or a dict or tuple of arrays
            for a model with several inputs; a single array or dict counts as one batch.
            At most 500 samples are read, and held in memory. The other
            quantizations do not read it.
        io_dtype: type of inputs and outputs: `"float32"`, or `"int8"` of an `"int8"`
            file and `"int16"` of a `"16x8"` one.
        input_shapes: replaces the model's input shapes, batch first, `None` where
            free: one shape, a list, or `{input name: shape}`; a `tf.TensorSpec`
            gives the dtype too. For a model with one input a new name renames it.
        metadata: what the file is to say of itself, as JSON can hold it, such as
            `{"labels": [...], "normalization": {"range": [0, 1]}}`. Versions and
            hashes are added; `inspect_tflite` reads it.
        allow: what is else an error: `"float"` operations in an integer file,
            `"flex"` operations, which a runtime needs the TensorFlow library for.
        float_layers: names of layers that an `"int8"` file with float inputs computes
            in float; see `layer_errors` for the ones that need it.

    Returns:
        The path of the file.

    Raises:
        ExportError: an argument is wrong, the model cannot be converted with
            built-in operations, the path cannot be written, or the file fails the
            verification (which for integer forms includes that every operation works
            on integer tensors). Names the layers where they are known.
        CalibrationError: calibration data is missing or does not fit the model.

    Example:
        >>> export_tflite(model, "out/small.tflite", quantization="int8",
        ...               calibration=images)
        PosixPath('out/small.tflite')

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 2 (int8).
    """
    with Exporter(model, input_shapes=input_shapes) as exporter:
        return exporter.write(
            path,
            quantization=quantization,
            calibration=calibration,
            io_dtype=io_dtype,
            metadata=metadata,
            allow=allow,
            float_layers=float_layers,
        )


class Exporter:
    """`export_tflite` for several files of one model, which is traced only once.

    Tracing and saving take half of the time of an export. Used as a context manager;
    within it the model must not be changed.

    Args:
        model: a built Keras model with the TensorFlow backend; it is not changed.
        input_shapes: see `export_tflite`.
        interface: what computes what the model does, where it is not the model
            itself; it has the input shapes.

    Raises:
        ExportError: the inputs cannot be described.

    Example:
        >>> with Exporter(model) as exporter:
        ...     plain = exporter.write("out/float32.tflite")
        ...     small = exporter.write("out/int8.tflite", quantization="int8",
        ...                            calibration=images)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        input_shapes: Any = None,
        interface: Interface | None = None,
    ) -> None:
        self._model = model
        self._signature = Signature(interface or describe(model, input_shapes))

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._signature.close()

    def write(
        self,
        path: str | os.PathLike,
        *,
        quantization: str = "float32",
        calibration: Any = None,
        io_dtype: str = "float32",
        metadata: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
        float_layers: Sequence[str] = (),
    ) -> Path:
        """Writes a file and verifies it.

        Args:
            path, quantization, calibration, io_dtype, metadata, allow, float_layers:
                see `export_tflite`.

        Raises:
            ExportError, CalibrationError: see `export_tflite`.
        """
        check_export(quantization, io_dtype, allow)
        _check_float_layers(self._model, tuple(float_layers), quantization, io_dtype)
        path = Path(path)
        allowed = (*allow, *(["float"] if float_layers else []))
        samples = None
        if quantization in CALIBRATED:
            samples = calibration_samples(
                calibration, self._signature.interface, MAX_CALIBRATION_SAMPLES
            )
        with written_whole(path) as temporary:
            content = convert(
                self._model,
                self._signature,
                quantization,
                samples=samples,
                io_dtype=io_dtype,
                allow=tuple(allow),
                float_layers=tuple(float_layers),
            )
            content = described(
                content, self._model, quantization=quantization, given=metadata
            )
            try:
                temporary.write_bytes(content)
            except OSError as error:
                raise unwritable(path, error) from error
            verify(
                temporary,
                name=path.name,
                model=self._model,
                interface=self._signature.interface,
                quantization=quantization,
                allow=allowed,
            )
        return path


def check_export(quantization: str, io_dtype: str, allow: Sequence[str]) -> None:
    """Raises unless there is such a form, and it can be written here."""
    check_form(quantization, io_dtype)
    if isinstance(allow, str) or not set(allow) <= set(ALLOWANCES):
        raise ExportError(f"`allow` holds any of {ALLOWANCES}. Received: {allow!r}")
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "TFLite export needs the TensorFlow backend of Keras; set "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}"
        )


def _check_float_layers(
    model: keras.Model, names: tuple[str, ...], quantization: str, io_dtype: str
) -> None:
    known = {layer.name for layer in model._flatten_layers(include_self=False)}
    for name in names:
        if name not in known:
            raise ExportError(f"No layer '{name}'; {nearest(name, known)}")
    if names and (quantization != "int8" or io_dtype != "float32"):
        raise ExportError(
            "`float_layers` belong to an int8 file with float32 inputs. Received: "
            f"quantization={quantization!r}, io_dtype={io_dtype!r}"
        )


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` that becomes `path` only on success."""
    check_no_folder(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tried before the conversion, so that a bad path costs no time.
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_no_folder(path: Path) -> None:
    """Raises where a file cannot be, for a folder has its name."""
    if path.is_dir():
        raise ExportError(f"The export path is a folder; name a file. Received: {path}")


def unwritable(path: Path, error: OSError) -> ExportError:
    """The error for a path that cannot be written to."""
    return ExportError(
        f"The file cannot be written ({error.strerror or error}); choose a path "
        f"in a folder that can be written. Received: {path}"
    )
