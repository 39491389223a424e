"""A ``.tflite`` file as something to predict with, through LiteRT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfcompress.errors import ModelFileError, TfcompressError

FILE_IDENTIFIER = b"TFL3"


class ModelInputError(TfcompressError, ValueError):
    """Data does not fit the inputs or outputs of a TFLite model."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a TFLite model.

    Attributes:
        name: its name in the signature.
        shape: its sizes, batch first; `None` where free.
        dtype: its numpy dtype name, such as `"float32"` or `"int8"`.
        scale: quantization scale, 0.0 for tensors that are not quantized.
        zero_point: quantization zero point.
        index: the interpreter's tensor index.

    Example:
        >>> TFLiteModel("model.tflite").inputs[0]
        TensorInfo(name='image', shape=(None, 8, 8, 1), dtype='float32', ...)
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float
    zero_point: int
    index: int

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Real values in this tensor's dtype; values of that dtype pass unchanged."""
        if values.dtype == self.dtype:
            return values
        if not self.scale:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.round(values.astype(np.float64) / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        """This tensor's values as float32 if it is quantized, else as they are."""
        if not self.scale:
            return values
        return (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def kernels(use_xnnpack: bool) -> OpResolverType:
    """LiteRT's kernels: with XNNPACK, as by default, or without any delegate."""
    if use_xnnpack:
        return OpResolverType.BUILTIN
    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def open_interpreter(
    path: str | os.PathLike,
    *,
    num_threads: int | None = None,
    use_xnnpack: bool = True,
) -> Interpreter:
    """Opens a ``.tflite`` file and allocates its tensors.

    Args:
        path: the file.
        num_threads: CPU threads; `None` leaves the choice to LiteRT.
        use_xnnpack: with the fast kernels that LiteRT takes by default, or without.

    Returns:
        A LiteRT `Interpreter`.

    Raises:
        ModelFileError: the file is missing, empty, truncated, of another kind, or
            needs operations that the runtime does not have.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelFileError(
            f"The TFLite model cannot be read ({error.strerror}); give the path of an "
            f"exported .tflite file. Received: {path}"
        ) from error
    if not head:
        raise ModelFileError(
            f"The TFLite model is an empty file; export it again. Received: {path}"
        )
    if head[4:] != FILE_IDENTIFIER:
        raise ModelFileError(
            "The file is not a TFLite model (it lacks the mark 'TFL3'); give the path "
            f"of an exported .tflite file. Received: {path}"
        )
    try:
        interpreter = Interpreter(
            str(path),
            num_threads=num_threads,
            experimental_op_resolver_type=kernels(use_xnnpack),
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"The TFLite model does not load ({_first_line(error)}); it is damaged or "
            f"needs operations this runtime lacks: export it again. Received: {path}"
        ) from error
    return interpreter


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


class TFLiteModel:
    """A ``.tflite`` file to predict with.

    Args:
        path: the file.
        num_threads: CPU threads; `None` leaves the choice to LiteRT.

    Attributes:
        inputs: a `TensorInfo` for each input.
        outputs: a `TensorInfo` for each output.

    Raises:
        ModelFileError: the file is no working TFLite model.

    Example:
        >>> TFLiteModel("model.tflite").predict(images).shape
        (32, 10)
    """

    def __init__(
        self, path: str | os.PathLike, *, num_threads: int | None = None
    ) -> None:
        self.path = Path(path)
        self._interpreter = open_interpreter(path, num_threads=num_threads)
        inputs, outputs = _named_details(self._interpreter)
        self.inputs = tuple(_info(name, detail) for name, detail in inputs.items())
        self.outputs = tuple(_info(name, detail) for name, detail in outputs.items())
        # The batch sizes the file allows: any if free, else the one it was made for.
        sizes = {info.shape[0] for info in self.inputs if info.shape} - {None}
        self._fixed_batch = max(sizes) if sizes else None
        self._shapes: list[tuple[int, ...]] | None = None

    def __repr__(self) -> str:
        return f"TFLiteModel({str(self.path)!r})"

    def predict(
        self, inputs: Any, batch_size: int = 256
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs the model on all samples.

        Args:
            inputs: an array or tensor of shape `(samples, ...)`; for a model with
                several inputs a dict by input name (a file does not keep the order
                of its inputs). Real values are quantized for integer inputs;
                values already of the input's dtype are taken as they are.
            batch_size: samples per run. A file of fixed batch size, or one whose
                operations cannot follow a larger batch, is run at its own size.

        Returns:
            An array of shape `(samples, ...)`, or for several outputs a dict of
            such arrays by output name. Quantized outputs come as float32.

        Raises:
            ModelInputError: the data does not fit the model's inputs.
            ModelFileError: the model fails to run.
        """
        if batch_size < 1:
            raise ModelInputError(
                f"`batch_size` must be at least 1. Received: {batch_size}"
            )
        arrays = self._arrays(inputs)
        count = len(arrays[0])
        size = self._fixed_batch or min(batch_size, count)
        chunks: list[list[np.ndarray]] = []
        start = 0
        while start < count:
            chunk = [array[start : start + size] for array in arrays]
            results = self._run(chunk)
            if results is None:
                if size == 1 or self._fixed_batch:
                    raise ModelFileError(
                        f"The TFLite model fails to run on inputs of shapes "
                        f"{[array.shape for array in chunk]}; export it with these "
                        f"`input_shapes`. Received: {self.path}"
                    )
                size = self._fixed_batch = 1
                continue
            chunks.append(results)
            start += size
        joined = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
        if len(joined) == 1:
            return joined[0]
        names = [info.name for info in self.outputs]
        return dict(zip(names, joined, strict=True))

    def _arrays(self, inputs: Any) -> list[np.ndarray]:
        names = [info.name for info in self.inputs]
        if not isinstance(inputs, Mapping):
            if len(names) != 1 or isinstance(inputs, (tuple, list)):
                raise ModelInputError(
                    f"Give the inputs as an array, or by name as a dict: {names}. "
                    f"Received: {type(inputs).__name__}"
                )
            inputs = {names[0]: inputs}
        if set(inputs) != set(names):
            raise ModelInputError(
                f"The TFLite model takes the inputs {names}. "
                f"Received: {sorted(map(str, inputs))}"
            )
        arrays = [np.asarray(inputs[name]) for name in names]
        for info, array in zip(self.inputs, arrays, strict=True):
            fits = array.ndim == len(info.shape) and all(
                size in (None, given)
                for size, given in zip(info.shape[1:], array.shape[1:], strict=True)
            )
            if not fits or len(array) != len(arrays[0]) or not len(array):
                raise ModelInputError(
                    f"Input '{info.name}' must have shape {(None, *info.shape[1:])}, "
                    "with at least one sample and equally many in all inputs. "
                    f"Received: shape {array.shape}"
                )
        return arrays

    def _run(self, chunk: list[np.ndarray]) -> list[np.ndarray] | None:
        """One batch; None if the operations cannot work at this batch size."""
        count = len(chunk[0])
        if self._fixed_batch and count < self._fixed_batch:
            filler = self._fixed_batch - count
            chunk = [np.concatenate([a, a[-1:].repeat(filler, 0)]) for a in chunk]
        shapes = [array.shape for array in chunk]
        try:
            if shapes != self._shapes:
                self._shapes = None
                for info, shape in zip(self.inputs, shapes, strict=True):
                    self._interpreter.resize_tensor_input(info.index, shape)
                self._interpreter.allocate_tensors()
                self._shapes = shapes
            for info, array in zip(self.inputs, chunk, strict=True):
                self._interpreter.set_tensor(info.index, info.quantize(array))
            self._interpreter.invoke()
        except RuntimeError:
            # predict() falls back to single samples, and raises if they fail too.
            self._shapes = None
            return None
        results = [self._interpreter.get_tensor(info.index) for info in self.outputs]
        if any(not r.ndim or len(r) != len(chunk[0]) for r in results):
            return None
        return [
            info.dequantize(result[:count])
            for info, result in zip(self.outputs, results, strict=True)
        ]


def _named_details(interpreter: Interpreter) -> tuple[dict, dict]:
    """Input and output details by signature name, else by tensor name."""
    signatures = interpreter.get_signature_list()
    if signatures:
        key = "serving_default" if "serving_default" in signatures else None
        runner = interpreter.get_signature_runner(key or next(iter(signatures)))
        return runner.get_input_details(), runner.get_output_details()

    def by_name(details: list[dict]) -> dict[str, dict]:
        prefix, suffix = "serving_default_", ":0"
        return {d["name"].removeprefix(prefix).removesuffix(suffix): d for d in details}

    return by_name(interpreter.get_input_details()), by_name(
        interpreter.get_output_details()
    )


def _info(name: str, detail: dict) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    shape = tuple(None if n < 0 else int(n) for n in detail["shape_signature"])
    dtype = np.dtype(detail["dtype"]).name
    return TensorInfo(
        name, shape, dtype, float(scale), int(zero_point), int(detail["index"])
    )
