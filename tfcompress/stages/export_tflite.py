"""ExportTFLite: the compressed model as `.tflite` files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfcompress.deploy.forms import (
    AUTO,
    CALIBRATED,
    IO_DTYPES,
    QUANTIZATIONS,
    check_form,
)
from tfcompress.distill.spec import ViewSpec
from tfcompress.errors import OptionError
from tfcompress.stages.base import Context, Stage, StageResult, load_model
from tfcompress.stages.training import check_classification

if TYPE_CHECKING:
    import keras

    from tfcompress.data import Dataset
    from tfcompress.quantize import AutoQuantization

# Of quantization-aware training.
_BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportTFLite(Stage):
    """Writes one `.tflite` file for each quantization.

    Args:
        quantization: any of "float32", "float16", "dynamic", "int8", "16x8",
            "weight_int8", "weight_int4"; or "auto": int8 in the way that loses at most
            `max_drop`, after training, with equalized channels, by training with the
            rounding, or with some layers in float.
        calibration: number of training images that integer files are calibrated with.
        io_dtype: type of inputs and outputs of integer files: "float32", or "integer",
            which is int8 of int8 files and int16 of 16x8 files.
        max_drop: of "auto": accuracy that may be lost on validation.
        training_epochs: of "auto": epochs of quantization-aware training; 0 does none.

    Raises:
        ExportError: a quantization that does not exist.
        OptionError: another argument out of range.

    Example:
        >>> stage = ExportTFLite(quantization=("int8", "16x8"), io_dtype="integer")
        >>> stage.io_dtype_of("16x8")
        'int16'
    """

    name = "export_tflite"
    needs = ("teacher",)
    gives = (*QUANTIZATIONS, AUTO)

    quantization: tuple[str, ...] = ("float32", "int8")
    calibration: int = 256
    io_dtype: str = "float32"
    max_drop: float = 0.005
    training_epochs: int = 3

    def __post_init__(self) -> None:
        for name in self.quantization:
            if name != AUTO:
                check_form(name, "float32")
        if not self.quantization or self.calibration < 1:
            raise OptionError("quantization and calibration must not be empty")
        if self.io_dtype not in ("float32", "integer"):
            raise OptionError(
                f"io_dtype must be float32 or integer. Received: {self.io_dtype}"
            )
        if not 0.0 <= self.max_drop <= 1.0 or self.training_epochs < 0:
            raise OptionError(
                "max_drop must lie in [0, 1], training_epochs not below 0. Received: "
                f"{self.max_drop} and {self.training_epochs}"
            )

    def check(self, data: Dataset) -> None:
        if AUTO in self.quantization:
            check_classification("export_tflite: quantization 'auto'", data)

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.deploy import Exporter

        latest = next(
            inputs[key] for key in ("compressed", "student", "teacher") if key in inputs
        )
        model = load_model(latest, context.data)
        artefacts, figures = {}, {}
        with Exporter(model) as exporter:
            for index, name in enumerate(self.quantization):
                calibration = None
                if name in CALIBRATED:
                    calibration = context.data.calibration(
                        self.calibration, seed=context.seed
                    )
                path = context.folder / f"{latest.stem}_{name}.tflite"
                if name == AUTO:
                    figures["auto"] = self.auto(model, path, context).to_dict()
                else:
                    exporter.write(
                        path,
                        quantization=name,
                        calibration=calibration,
                        io_dtype=self.io_dtype_of(name),
                        metadata=context.data.metadata(),
                    )
                artefacts[name] = path
                context.progress(index + 1, len(self.quantization), {})
        sizes = {name: path.stat().st_size for name, path in artefacts.items()}
        return StageResult(artefacts, {"bytes": sizes, "model": latest.stem, **figures})

    def auto(
        self, model: keras.Model, path: Path, context: Context
    ) -> AutoQuantization:
        """Writes the int8 file that keeps the accuracy; see `quantize_auto`."""
        from tfcompress.quantize import Training, quantize_auto

        data = context.data
        train = None
        if self.training_epochs:
            batch_size = min(_BATCH_SIZE, data.sizes["train"])
            train = data.batches("train", batch_size, shuffle_seed=context.seed)
        return quantize_auto(
            model,
            path,
            calibration=data.calibration(
                self.calibration, seed=context.seed, batch_size=32
            ),
            validation=data.batches("validation", 256),
            max_drop=self.max_drop,
            train=train,
            training=Training(
                epochs=max(self.training_epochs, 1),
                views=ViewSpec(mode="consistent", crop="mild").for_data(
                    data.mirror_symmetric
                ),
                seed=context.seed,
            ),
            metadata=data.metadata(),
        )

    def io_dtype_of(self, quantization: str) -> str:
        """Type of inputs and outputs of a file of this form."""
        if self.io_dtype == "float32":
            return "float32"
        return IO_DTYPES.get(quantization, "float32")
