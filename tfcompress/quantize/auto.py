"""As much int8 as the accuracy allows: tried on the file, cheapest first."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.deploy import (
    ExportError,
    LayerError,
    evaluate_tflite,
    export_tflite,
    layer_errors,
)
from tfcompress.deploy.export import check_no_folder, unwritable
from tfcompress.errors import OptionError
from tfcompress.quantize.aware import quantize_aware
from tfcompress.quantize.equalization import equalize
from tfcompress.quantize.training import Progress, Training

# Shares of the layers that are left in float, until the drop is small enough.
_FLOAT_SHARES = (0.1, 0.2, 0.4)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One way to quantize, and what its file is worth.

    Attributes:
        method: "float32", "int8", "int8, equalized", "quantization aware" or "int8, N
            layers in float".
        accuracy: on validation.
        drop: what it loses against the float32 file.
        bytes: size of the file.
        float_layers: layers left in float.
    """

    method: str
    accuracy: float
    drop: float
    bytes: int
    float_layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AutoQuantization:
    """What `quantize_auto` found.

    Attributes:
        path: the file of the chosen trial.
        chosen: the first trial within the limit, else the best.
        met: whether it is within the limit.
        trials: all that were made, in order.
        layers: errors of the plain int8 file by layer, the worst first; empty where
            that file was good enough.

    Example:
        >>> found = quantize_auto(model, "small.tflite",             # doctest: +SKIP
        ...                       calibration=images, validation=validation)
        >>> found.met, found.chosen.method                           # doctest: +SKIP
        (True, 'int8')
    """

    path: Path
    chosen: Trial
    met: bool
    trials: tuple[Trial, ...]
    layers: tuple[LayerError, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return {
            "chosen": self.chosen.method,
            "met": self.met,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "layers": [error.to_dict() for error in self.layers],
        }

    def table(self) -> str:
        """The trials as text, and the worst layers."""
        lines = [f"{'method':<28} {'accuracy':>9} {'drop':>8} {'bytes':>11}"]
        for trial in self.trials:
            mark = "  <- chosen" if trial == self.chosen else ""
            lines.append(
                f"{trial.method:<28} {trial.accuracy:>9.4f} {trial.drop:>+8.4f} "
                f"{trial.bytes:>11,}{mark}"
            )
        if self.layers:
            lines += ["", f"{'worst layers of int8':<28} {'error':>9} {'added':>8}"]
            lines += [
                f"{e.layer:<28} {e.relative:>9.4f} {e.added:>+8.4f}"
                for e in self.layers[:8]
            ]
        return "\n".join(lines)


def quantize_auto(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    calibration: Any,
    validation: tf.data.Dataset,
    max_drop: float = 0.005,
    train: tf.data.Dataset | None = None,
    training: Training | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> AutoQuantization:
    """Writes the smallest effort's int8 file that keeps the accuracy.

    In turn, until a file loses at most `max_drop`: int8 after training; the same with
    equalized channels; quantization-aware training, where there are training data; and
    int8 with the layers in float that add most error.

    Args:
        model: a trained classifier with one output; it is not changed.
        path: file to write.
        calibration: see `export_tflite`; something that can be read again.
        validation: batches `(images, integer labels)` that files are judged on.
        max_drop: accuracy that may be lost against the float32 file, in [0, 1].
        train: batches `(images, labels)` for quantization-aware training.
        training: how that is done.
        metadata: see `export_tflite`.
        progress: of the training.

    Returns:
        What was tried, and the file. Where no trial was good enough it is the best one,
        and `met` is false.

    Raises:
        OptionError: a limit out of range.
        ExportError: no trial could be exported.

    Example:
        >>> found = quantize_auto(                                   # doctest: +SKIP
        ...     model, "small.tflite",
        ...     calibration=images, validation=validation, train=train)
        >>> print(found.table())                                     # doctest: +SKIP
    """
    if not 0.0 <= max_drop <= 1.0:
        raise OptionError(f"max_drop must lie in [0, 1]. Received: {max_drop}")
    path = Path(path)
    trials: list[Trial] = []
    failures: list[str] = []
    with _folder_beside(path) as work:
        plain = export_tflite(model, work / "float32.tflite", metadata=metadata)
        full = evaluate_tflite(plain, validation)["accuracy"]
        trials.append(Trial("float32", full, 0.0, plain.stat().st_size))
        ways = _Ways(model, calibration, train, training, metadata, progress)
        files: dict[int, Path] = {}
        for method, float_layers, write in ways.all():
            file = work / f"{len(trials)}.tflite"
            try:
                write(file)
            except ExportError as error:
                failures.append(f"{method}: {error}")
                continue
            accuracy = evaluate_tflite(file, validation)["accuracy"]
            trial = Trial(
                method, accuracy, full - accuracy, file.stat().st_size, float_layers
            )
            files[len(trials)] = file
            trials.append(trial)
            if method == "int8":
                ways.plain = file
            if trial.drop <= max_drop:
                break
        if not files:
            raise ExportError(
                f"Model '{model.name}' cannot be quantized. {'; '.join(failures)}"
            )
        index = min(files, key=lambda i: (trials[i].drop > max_drop, trials[i].drop))
        os.replace(files[index], path)
        chosen = trials[index]
        return AutoQuantization(
            path, chosen, chosen.drop <= max_drop, tuple(trials), ways.layers
        )


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk, that a file can be renamed from."""
    check_no_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantize-")
    except OSError as error:
        raise unwritable(path, error) from error
    with folder as name:
        yield Path(name)


class _Ways:
    """The ways to quantize, the cheapest first; made when it is their turn."""

    def __init__(
        self,
        model: keras.Model,
        calibration: Any,
        train: tf.data.Dataset | None,
        training: Training | None,
        metadata: Mapping[str, Any] | None,
        progress: Progress | None,
    ) -> None:
        self.model = model
        self.calibration = calibration
        self.train = train
        self.training = training
        self.progress = progress
        self.options = {"calibration": calibration, "metadata": metadata}
        # The plain int8 file, once there is one.
        self.plain: Path | None = None
        self.layers: tuple[LayerError, ...] = ()

    def all(self) -> Iterator[tuple[str, tuple[str, ...], Callable[[Path], Any]]]:
        yield "int8", (), self._writer(lambda: self.model)
        yield (
            "int8, equalized",
            (),
            self._writer(lambda: equalize(self.model, self.calibration)),
        )
        if self.train is not None:
            yield "quantization aware", (), self._trained
        if self.plain is None:
            return
        self.layers = self._worst()
        names = list(dict.fromkeys(error.layer for error in self.layers))
        counts = sorted({max(round(share * len(names)), 1) for share in _FLOAT_SHARES})
        for count in counts:
            kept = tuple(names[:count])
            word = "layer" if count == 1 else "layers"
            yield (
                f"int8, {count} {word} in float",
                kept,
                self._writer(lambda: self.model, float_layers=kept),
            )

    def _writer(
        self, made: Callable[[], keras.Model], **options: Any
    ) -> Callable[[Path], Any]:
        def write(file: Path) -> None:
            export_tflite(made(), file, quantization="int8", **self.options, **options)

        return write

    def _trained(self, file: Path) -> None:
        trained = quantize_aware(
            self.model, self.train, training=self.training, progress=self.progress
        )
        trained.export(file, **self.options)

    def _worst(self) -> tuple[LayerError, ...]:
        errors = layer_errors(self.plain, self.model, self.calibration)
        known = {x.name for x in self.model._flatten_layers(include_self=False)}
        named = [error for error in errors if error.layer in known]
        return tuple(sorted(named, key=lambda error: -error.added))
