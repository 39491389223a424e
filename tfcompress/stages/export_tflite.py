"""ExportTFLite: the compressed model as `.tflite` files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tfcompress.deploy.forms import CALIBRATED, IO_DTYPES, QUANTIZATIONS, check_form
from tfcompress.errors import OptionError
from tfcompress.stages.base import Context, Stage, StageResult, load_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportTFLite(Stage):
    """Writes one `.tflite` file for each quantization.

    Args:
        quantization: any of "float32", "float16", "dynamic", "int8", "16x8",
            "weight_int8", "weight_int4".
        calibration: number of training images that integer files are calibrated with.
        io_dtype: type of inputs and outputs of integer files: "float32", or "integer",
            which is int8 of int8 files and int16 of 16x8 files.
    """

    name = "export_tflite"
    needs = ("teacher",)
    gives = tuple(QUANTIZATIONS)

    quantization: tuple[str, ...] = ("float32", "int8")
    calibration: int = 256
    io_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in self.quantization:
            check_form(name, "float32")
        if not self.quantization or self.calibration < 1:
            raise OptionError("quantization and calibration must not be empty")
        if self.io_dtype not in ("float32", "integer"):
            raise OptionError(
                f"io_dtype must be float32 or integer. Received: {self.io_dtype}"
            )

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.deploy import export_tflite

        latest = next(
            inputs[key] for key in ("compressed", "student", "teacher") if key in inputs
        )
        model = load_model(latest, context.data)
        artefacts, sizes = {}, {}
        for index, name in enumerate(self.quantization):
            calibration = None
            if name in CALIBRATED:
                calibration = context.data.calibration(
                    self.calibration, seed=context.seed
                )
            path = export_tflite(
                model,
                context.folder / f"{latest.stem}_{name}.tflite",
                quantization=name,
                calibration=calibration,
                io_dtype=self._io_dtype(name),
                metadata=context.data.metadata(),
            )
            artefacts[name] = path
            sizes[name] = path.stat().st_size
            context.progress(index + 1, len(self.quantization), {})
        return StageResult(artefacts, {"bytes": sizes, "model": latest.stem})

    def _io_dtype(self, quantization: str) -> str:
        if self.io_dtype == "float32":
            return "float32"
        return IO_DTYPES.get(quantization, "float32")
