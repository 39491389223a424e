"""Commands on files: `export`, `evaluate`, `inspect`, `bench`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.common import (
    Data,
    ImageSize,
    Json,
    PixelRange,
    Seed,
    numbers,
    open_data,
    print_table,
    refuse_the_model,
)
from tfcompress.errors import TfcompressError, nearest
from tfcompress.files import write_atomically

_FORMATS = ("tflite", "onnx", "saved_model")
_KERNELS = {"on": (True,), "off": (False,), "both": (True, False)}

Tflite = Annotated[Path, typer.Argument(help="A .tflite file.")]


def add_file_commands(app: typer.Typer) -> None:
    """Adds the commands on files to the command line."""
    for command in (export, evaluate, inspect, bench):
        app.command()(command)


def export(
    model: Annotated[Path, typer.Argument(help="A .keras file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file, or a SavedModel's folder.")
    ],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="tflite, onnx or saved_model; without it, FILE.onnx is ONNX.",
        ),
    ] = None,
    quantization: Annotated[
        str,
        typer.Option(
            help="float32, float16, dynamic, int8, 16x8, weight_int8, weight_int4; "
            "auto: int8 in the way that loses at most --max-drop."
        ),
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Calibration data; its labels go into the file."),
    ] = None,
    calibration: Annotated[int, typer.Option(help="Calibration images.")] = 256,
    io_dtype: Annotated[
        str, typer.Option(help="Inputs and outputs of integer files: float32, integer.")
    ] = "float32",
    image_size: ImageSize = None,
    pixel_range: PixelRange = "0,1",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="What is else an error: float, flex operations."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Of auto: validation accuracy that may be lost.")
    ] = 0.005,
    training_epochs: Annotated[
        int, typer.Option(help="Of auto: epochs of quantization-aware training.")
    ] = 3,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a model as .tflite, ONNX or SavedModel, and check the file."""
    from tfcompress.deploy.forms import AUTO, CALIBRATED
    from tfcompress.stages import Context, load_model
    from tfcompress.stages.export_tflite import ExportTFLite

    # Its checks of the options, before TensorFlow is imported.
    stage = ExportTFLite(
        quantization=(quantization,),
        calibration=calibration,
        io_dtype=io_dtype,
        max_drop=max_drop,
        training_epochs=training_epochs,
    )
    refuse_the_model(output, model)
    file_format = _format_of(output, file_format, quantization)
    if quantization in (*CALIBRATED, AUTO) and data is None:
        raise TfcompressError(
            f"{quantization} needs images to calibrate with: give --data."
        )
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        images = found = None
        if data is not None:
            found = open_data(data, image_size, pixel_range)
        if quantization in CALIBRATED:
            images = found.calibration(calibration, seed=seed)
        network = load_model(model, found)
        if quantization == AUTO:
            context = Context(folder=output.parent, data=found, seed=seed)
            tried = stage.auto(network, output, context)
            if not as_json:
                typer.echo(tried.table())
            _written(output, as_json, quantization, **tried.to_dict())
            return
        from tfcompress import deploy

        metadata = None if found is None else found.metadata()
        if file_format == "tflite":
            path = deploy.export_tflite(
                network,
                output,
                quantization=quantization,
                calibration=images,
                io_dtype=stage.io_dtype_of(quantization),
                metadata=metadata,
                allow=tuple(allow or ()),
            )
        else:
            write = getattr(deploy, f"export_{file_format}")
            path = write(network, output, metadata=metadata)
    _written(path, as_json, quantization)


def _written(path: Path, as_json: bool, quantization: str, **more: Any) -> None:
    """Says what `export` has written."""
    size = _size(path)
    if as_json:
        facts = {"path": str(path), "bytes": size, "quantization": quantization}
        typer.echo(json.dumps(facts | more, indent=1))
    else:
        typer.echo(f"{path}: {size:,} bytes")


def _format_of(output: Path, given: str | None, quantization: str) -> str:
    """The format to write: as said, else by the name of the file."""
    found = given or ("onnx" if output.suffix == ".onnx" else "tflite")
    if found not in _FORMATS:
        raise TfcompressError(f"No format '{found}'; {nearest(found, _FORMATS)}")
    if found != "tflite" and quantization != "float32":
        raise TfcompressError(
            f"Only .tflite files are quantized: leave --quantization {quantization} "
            f"out, or --format {found}."
        )
    return found


def _size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def evaluate(
    file: Tflite,
    data: Data,
    reference: Annotated[
        Path | None,
        typer.Option(help="The .keras file to compare with, layer by layer."),
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all by default.")
    ] = None,
    image_size: ImageSize = None,
    pixel_range: PixelRange = "0,1",
    as_json: Json = False,
) -> None:
    """What a .tflite file is worth on a data set, and how close it is to its model."""
    if split not in ("train", "validation", "test"):
        raise TfcompressError(
            f"--split must be train, validation or test. Received: {split}"
        )
    if threads is not None and threads < 1:
        raise TfcompressError(f"--threads must be positive. Received: {threads}")
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress.deploy import TFLiteModel, layer_errors
        from tfcompress.stages import load_model
        from tfcompress.tasks import task_of

        # A bad file is said before the data are loaded.
        TFLiteModel(file)
        found = open_data(data, image_size, pixel_range)
        network = None if reference is None else load_model(reference, found)
        figures: dict = task_of(found).evaluate_file(
            file,
            found.batches(split, 256),
            reference=network,
            num_threads=threads or os.cpu_count(),
        )
        errors = []
        if network is not None:
            errors = layer_errors(file, network, found.calibration(64))
    if as_json:
        layers = [error.to_dict() for error in errors]
        typer.echo(json.dumps(figures | {"split": split, "layers": layers}, indent=1))
        return
    for key, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        typer.echo(f"{key.replace('_', ' ')}: {shown}")
    if errors:
        print_table(
            [
                ["layer", "type", "relative error", "added"],
                *(
                    [e.layer, e.dtype, f"{e.relative:.4f}", f"{e.added:+.4f}"]
                    for e in errors
                ),
            ]
        )


def inspect(file: Tflite, as_json: Json = False) -> None:
    """Inputs, operations, constants and metadata of a .tflite file."""
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress.deploy import inspect_tflite

        found = inspect_tflite(file)
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))


def bench(
    files: Annotated[list[Path], typer.Argument(help="One or more .tflite files.")],
    runs: Annotated[int, typer.Option(help="Timed samples per file.")] = 100,
    warmup: Annotated[int, typer.Option(help="Untimed runs per file.")] = 20,
    threads: Annotated[
        str, typer.Option(help="CPU threads, such as 1 or 1,2,4.")
    ] = "1",
    xnnpack: Annotated[
        str, typer.Option(help="LiteRT's fast kernels: on, off or both.")
    ] = "on",
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory, in a process for each file.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A JSON file to write.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time .tflite files in one interleaved run, so that drift hits all alike."""
    counts = numbers(threads, int, "--threads")
    if xnnpack not in _KERNELS:
        raise TfcompressError(f"--xnnpack is on, off or both. Received: {xnnpack}")
    if runs < 1 or warmup < 0 or min(counts) < 1:
        raise TfcompressError("runs and threads must be positive, warmup not negative.")
    if output is not None and not output.parent.is_dir():
        raise TfcompressError(f"There is no folder '{output.parent}' to write to.")
    from tfcompress.cli.quiet import quiet_stderr
    from tfcompress.progress import TerminalDisplay

    with quiet_stderr() as console:
        from tfcompress.deploy import TFLiteModel, compare_latency

        # A bad file is said before anything is shown.
        for file in files:
            TFLiteModel(file)
        with TerminalDisplay(console) as display:
            display.start(1, 1, "bench", done=False)
            found = compare_latency(
                files,
                threads=counts,
                xnnpack=_KERNELS[xnnpack],
                runs=runs,
                warmup=warmup,
                seed=seed,
                memory=memory,
                progress=lambda done, total: display.update(done, total, {}),
            )
    text = json.dumps(found.to_dict(), indent=1)
    if output is not None:
        write_atomically(output, text)
    if as_json:
        typer.echo(text)
        return
    table = [["file", "threads", "XNNPACK", "median, ms", "quartiles", "p90", "cold"]]
    table[0] += ["peak MB", "ratio (95 %)", ""]
    for row in found.rows:
        table.append(
            [
                row.name,
                str(row.num_threads),
                "on" if row.xnnpack else "off",
                f"{row.median_ms:.3f}",
                f"{row.q1_ms:.3f} to {row.q3_ms:.3f}",
                f"{row.p90_ms:.3f}",
                f"{row.cold_ms:.3f}",
                "" if row.memory_mb is None else f"{row.memory_mb:.1f}",
                f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
                row.verdict,
            ]
        )
    print_table(table)
    if found.noisy:
        typer.echo(
            "The machine was too noisy to tell some of them apart: stop what else "
            "runs, or give --runs more."
        )
