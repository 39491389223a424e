"""`tfcompress`: plan, compress, distill, export, bench, run, data."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.errors import TfcompressError

app = typer.Typer(
    help="Makes trained Keras networks small enough to ship, and proves it on the "
    "file that ships.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Prepares data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

# What typer ends with after Ctrl-C.
_INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Data = Annotated[
    str, typer.Option("--data", help="Data set name, image folder or IDX folder.")
]
ImageSize = Annotated[
    str | None, typer.Option(help="Resize images: HEIGHT,WIDTH in pixels.")
]
PixelRange = Annotated[
    str, typer.Option(help="What the model takes for black and white: LOW,HIGH.")
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback."""
    # TensorFlow's start-up notes say nothing about the user's work.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except TfcompressError as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write(
                "Stopped. The same `run` goes on at the stage it was in.\n"
            )
        raise


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    if version:
        from tfcompress import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, YAML.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder; runs/NAME.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, such as dataset=fashion_mnist."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe, or go on where it was stopped."""
    from tfcompress.recipe import load_recipe

    parsed = load_recipe(recipe, override or ())
    if output is None:
        output = Path("runs") / parsed.name
    from tfcompress.cli.quiet import quiet_stderr
    from tfcompress.progress import TerminalDisplay
    from tfcompress.report import file_table
    from tfcompress.runner import run_recipe

    with quiet_stderr() as console, TerminalDisplay(console) as display:
        report = run_recipe(parsed, output, display=display)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    print_table(file_table(report))
    typer.echo(f"Report: {output / 'report.md'}")


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A .keras file, or VGG16, ResNet50...")],
    target_macs: Annotated[float | None, typer.Option(help="In (0, 1].")] = None,
    target_params: Annotated[float | None, typer.Option(help="In (0, 1].")] = None,
    selector: Annotated[
        str, typer.Option(help="energy, budgeted, vbmf, ratio.")
    ] = "energy",
    keep: Annotated[
        list[str] | None, typer.Option(help="Pattern of layers to leave alone.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="HEIGHT,WIDTH,CHANNELS where the model is open.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also layers without weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what would be done to every layer. Trains and writes nothing."""
    from tfcompress.ranks.plan import Budget
    from tfcompress.stages.compress import make_selector

    if target_macs is None and target_params is None:
        target_macs = 0.5
    budget = Budget(macs=target_macs, params=target_params)
    from tfcompress.cli.models import open_model
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        rank_selector = make_selector(selector, {"keep": tuple(keep or ())}, budget)
        network, note = open_model(model)
        from tfcompress.cost import layer_specs

        shape = numbers(input_shape, int, "--input-shape")
        made = rank_selector.select(layer_specs(network, shape), budget)
    if as_json:
        typer.echo(made.to_json())
        return
    typer.echo(made.table(every=every))
    if note:
        typer.echo(note)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A .keras file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .tflite file.")],
    quantization: Annotated[
        str, typer.Option(help="float32, float16, dynamic, int8.")
    ] = "float32",
    data: Annotated[
        str | None, typer.Option("--data", help="Calibration data for int8.")
    ] = None,
    calibration: Annotated[int, typer.Option(help="Calibration images.")] = 256,
    io_dtype: Annotated[
        str, typer.Option(help="Inputs and outputs of int8: float32, int8.")
    ] = "float32",
    image_size: ImageSize = None,
    pixel_range: PixelRange = "0,1",
    seed: Seed = 0,
) -> None:
    """Write a model as .tflite, and check the file."""
    from tfcompress.stages import load_model
    from tfcompress.stages.export_tflite import ExportTFLite

    # Its checks of the options, before TensorFlow is imported.
    ExportTFLite(
        quantization=(quantization,), calibration=calibration, io_dtype=io_dtype
    )
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        images = None
        found = None
        if quantization == "int8":
            if data is None:
                raise TfcompressError(
                    "int8 needs images to calibrate with: give --data."
                )
            found = open_data(data, image_size, pixel_range)
            images = found.calibration(calibration, seed=seed)
        network = load_model(model, found)
        from tfcompress.deploy import export_tflite

        path = export_tflite(
            network,
            output,
            quantization=quantization,
            calibration=images,
            io_dtype=io_dtype,
        )
    typer.echo(f"{path}: {path.stat().st_size:,} bytes")


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help="One or more .tflite files.")],
    runs: Annotated[int, typer.Option(help="Timed samples per file.")] = 100,
    warmup: Annotated[int, typer.Option(help="Untimed runs per file.")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time .tflite files, all in turn, so that drift hits all alike."""
    if runs < 1 or warmup < 0 or threads < 1:
        raise TfcompressError("runs and threads must be positive, warmup not negative.")
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress.deploy import measure_latency

        found = measure_latency(
            files, runs=runs, warmup=warmup, num_threads=threads, seed=seed
        )
    if as_json:
        typer.echo(json.dumps({k: v.to_dict() for k, v in found.items()}, indent=1))
        return
    first = next(iter(found.values())).median_ms
    table = [["file", "median, ms", "quartiles", "p90", "cold", "relative"]]
    for name, one in found.items():
        table.append(
            [
                name,
                f"{one.median_ms:.3f}",
                f"{one.q1_ms:.3f} to {one.q3_ms:.3f}",
                f"{one.p90_ms:.3f}",
                f"{one.cold_ms:.3f}",
                f"{one.median_ms / first:.2f}",
            ]
        )
    print_table(table)


@data_app.command("import-idx")
def import_idx(
    folder: Annotated[Path, typer.Argument(help="Folder with IDX files.")],
    name: Annotated[str, typer.Option(help="Name of the TFDS data set.")],
    data_dir: Annotated[Path, typer.Option(help="TFDS folder to write to.")] = Path(
        "~/tensorflow_datasets"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace an older one.")] = False,
) -> None:
    """Turn IDX files into a prepared TFDS data set."""
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress import data

        path = data.import_idx(
            folder, name=name, data_dir=data_dir.expanduser(), overwrite=overwrite
        )
    typer.echo(f"{path}: use it as 'dataset: {name}'")


def numbers(text: str | None, kind: type, flag: str) -> tuple[Any, ...] | None:
    """Comma-separated numbers of a flag.

    Raises:
        TfcompressError: not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise TfcompressError(
            f"{flag} takes numbers separated by commas. Received: {text}"
        ) from error


def open_data(data: str, image_size: str | None, pixel_range: str) -> Any:
    """The data set that `--data` names: a name, an image folder or an IDX folder."""
    from tfcompress.data import DatasetSpec, load_dataset

    options: dict[str, Any] = {"pixel_range": numbers(pixel_range, float, "range")}
    if image_size is not None:
        options["image_size"] = numbers(image_size, int, "--image-size")
    place = Path(data)
    if place.is_dir():
        idx = any(place.glob("*-ubyte*"))
        options["idx" if idx else "folder"] = data
    else:
        options["name"] = data
    return load_dataset(DatasetSpec(**options))


def print_table(table: list[list[str]]) -> None:
    """A table on standard output: by rich on a terminal, aligned text when piped."""
    if not table:
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        head, *rows = table
        shown = Table(*head)
        for row in rows:
            shown.add_row(*row)
        Console().print(shown)
        return
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _add_stage_commands() -> None:
    # Their flags are the fields of the stages; building them needs no TensorFlow.
    from tfcompress.cli.stage_commands import add_stage_commands

    add_stage_commands(app)


_add_stage_commands()
