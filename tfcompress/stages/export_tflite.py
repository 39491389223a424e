"""ExportTFLite: the compressed model as `.tflite` files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tfcompress.errors import OptionError, nearest
from tfcompress.stages.base import Context, Stage, StageResult, load_model

QUANTIZATIONS = ("float32", "float16", "dynamic", "int8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportTFLite(Stage):
    """Writes one `.tflite` file for each quantization.

    Args:
        quantization: any of "float32", "float16", "dynamic", "int8".
        calibration: number of training images that int8 is calibrated with.
        io_dtype: type of inputs and outputs of int8 files: "float32" or "int8".
    """

    name = "export_tflite"
    needs = ("teacher",)
    gives = QUANTIZATIONS

    quantization: tuple[str, ...] = ("float32", "int8")
    calibration: int = 256
    io_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in self.quantization:
            if name not in QUANTIZATIONS:
                hint = nearest(name, QUANTIZATIONS)
                raise OptionError(f"No quantization '{name}'; {hint}")
        if not self.quantization or self.calibration < 1:
            raise OptionError("quantization and calibration must not be empty")
        if self.io_dtype not in ("float32", "int8"):
            raise OptionError(
                f"io_dtype must be float32 or int8. Received: {self.io_dtype}"
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
            if name == "int8":
                calibration = context.data.calibration(
                    self.calibration, seed=context.seed
                )
            path = export_tflite(
                model,
                context.folder / f"{latest.stem}_{name}.tflite",
                quantization=name,
                calibration=calibration,
                io_dtype=self.io_dtype if name == "int8" else "float32",
            )
            artefacts[name] = path
            sizes[name] = path.stat().st_size
            context.progress(index + 1, len(self.quantization), {})
        return StageResult(artefacts, {"bytes": sizes, "model": latest.stem})
