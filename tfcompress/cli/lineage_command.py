"""The command `lineage`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfcompress.cli.common import Json, print_table
from tfcompress.errors import TfcompressError

if TYPE_CHECKING:
    from tfcompress.lineage import Lineage

# As pipelines/tfx_local_runner.py names it.
_METADATA = "metadata.sqlite"


def lineage(
    model: Annotated[
        Path, typer.Argument(help="A .keras or .tflite file, or a Model artefact.")
    ],
    run: Annotated[
        Path | None, typer.Option(help="Folder of the local run that made it.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="ML Metadata of the TFX run, a SQLite file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print which data, teacher, ranks and code version made a model."""
    if run is not None and metadata is not None:
        raise TfcompressError("Give --run or --metadata, not both.")
    from tfcompress.cli.quiet import quiet_stderr
    from tfcompress.lineage import lineage_of_run, open_subject

    with quiet_stderr():
        subject = open_subject(model)
        if run is None and metadata is None:
            run, metadata = _around(subject.path)
        if run is not None:
            found = lineage_of_run(model, run)
        else:
            from tfcompress.tfx.lineage import lineage_of_metadata

            found = lineage_of_metadata(model, metadata)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    _print(found)


def _around(model: Path) -> tuple[Path | None, Path | None]:
    """The run folder, or else the metadata, in the folders above a model."""
    for folder in model.resolve().parents:
        if (folder / "run.json").is_file():
            return folder, None
        if (folder / _METADATA).is_file():
            return None, folder / _METADATA
    raise TfcompressError(
        f"'{model}' lies in no run folder (no run.json or {_METADATA} in the folders "
        "above it): name its run with --run FOLDER or --metadata FILE."
    )


def _print(found: Lineage) -> None:
    """As a tree by rich on a terminal, as indented lines when piped."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text
        from rich.tree import Tree

        place = root = Tree(Text("\n".join(found.head())))
        for title, lines in found.blocks():
            place = place.add(
                Text.assemble((title, "bold"), *(f"\n{x}" for x in lines))
            )
        Console().print(root)
    else:
        typer.echo("\n".join(found.head()))
        for title, lines in found.blocks():
            typer.echo("\n".join(["", title, *(f"    {line}" for line in lines)]))
    if found.layers:
        typer.echo()
        print_table(found.table())
