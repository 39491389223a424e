"""`tfcompress report`: one HTML page from run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.common import Json, print_table


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, side by side.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The HTML file to write.")
    ] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write one HTML page of run folders; it needs no network."""
    # No TensorFlow in any of these: the page is made from JSON alone.
    from tfcompress.page import overview, write_page
    from tfcompress.page.view import comparison

    found = write_page(runs, output)
    if as_json:
        rows = [
            {"run": str(folder), "name": run.label, **overview(run)}
            for folder, run in zip(runs, found, strict=True)
        ]
        typer.echo(json.dumps({"file": str(output), "runs": rows}, indent=1))
        return
    print_table(comparison(found))
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")
