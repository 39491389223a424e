"""`tfcompress`: plan, compress, distill, export, bench, run, report, lineage..."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.common import (
    Data,
    ImageSize,
    Json,
    PixelRange,
    numbers,
    open_data,
    print_table,
)
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


@data_app.command("import-idx")
def import_idx(
    folder: Annotated[Path, typer.Argument(help="Folder with IDX files.")],
    name: Annotated[str, typer.Option(help="Name of the TFDS data set.")],
    data_dir: Annotated[Path, typer.Option(help="TFDS folder to write to.")] = Path(
        "~/tensorflow_datasets"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace an older one.")] = False,
    as_json: Json = False,
) -> None:
    """Turn IDX files into a prepared TFDS data set."""
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress import data

        path = data.import_idx(
            folder, name=name, data_dir=data_dir.expanduser(), overwrite=overwrite
        )
    if as_json:
        typer.echo(json.dumps({"path": str(path), "name": name}))
        return
    typer.echo(f"{path}: use it as 'dataset: {name}'")


@data_app.command("write-examples")
def write_examples(
    data: Data,
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    shards: Annotated[int, typer.Option(help="Files for each split.", min=1)] = 1,
    encoded: Annotated[
        bool, typer.Option(help="PNG, eight bits a channel, not float32 numbers.")
    ] = False,
    image_size: ImageSize = None,
    pixel_range: PixelRange = "0,1",
    as_json: Json = False,
) -> None:
    """Write a data set as tf.Examples, which TFX's ImportExampleGen takes."""
    from tfcompress.cli.quiet import quiet_stderr

    with quiet_stderr():
        from tfcompress.data import write_examples as write

        loaded = open_data(data, image_size, pixel_range)
        write(loaded, folder, shards=shards, encoded=encoded)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "sizes": loaded.sizes}))
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in loaded.sizes.items())
    typer.echo(f"{folder}: {counts} examples; use it as --data {folder}")


def _add_commands() -> None:
    # The flags of stages are their fields; building them needs no TensorFlow.
    from tfcompress.cli.evidence_command import add_evidence_command
    from tfcompress.cli.file_commands import add_file_commands
    from tfcompress.cli.lineage_command import lineage
    from tfcompress.cli.report_command import report
    from tfcompress.cli.stage_commands import add_stage_commands

    add_stage_commands(app)
    add_file_commands(app)
    app.command()(lineage)
    add_evidence_command(app)
    app.command()(report)


_add_commands()
