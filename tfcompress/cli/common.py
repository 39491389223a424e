"""What the commands share: flags, data sets, tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.errors import TfcompressError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Data = Annotated[
    str,
    typer.Option("--data", help="Data set name, or folder: images, IDX, examples."),
]
ImageSize = Annotated[
    str | None, typer.Option(help="Resize images: HEIGHT,WIDTH in pixels.")
]
PixelRange = Annotated[
    str, typer.Option(help="What the model takes for black and white: LOW,HIGH.")
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]


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


def refuse_the_model(output: Path, model: Path) -> None:
    """Raises where a command would write over the model that it reads."""
    if output.exists() and model.exists() and output.samefile(model):
        raise TfcompressError(
            f"The output '{output}' is the model itself: name another file."
        )


def open_data(data: str, image_size: str | None, pixel_range: str) -> Any:
    """The data set that `--data` names: by name, or as a folder."""
    from tfcompress.data import DatasetSpec, load_dataset

    options: dict[str, Any] = {"pixel_range": numbers(pixel_range, float, "range")}
    if image_size is not None:
        options["image_size"] = numbers(image_size, int, "--image-size")
    place = Path(data)
    if "://" in data:
        options["examples"] = data
    elif place.is_dir():
        kind = "folder"
        if any(place.glob("*-ubyte*")):
            kind = "idx"
        elif any(place.glob("train/*.tfrecord*")) or (place / "Split-train").is_dir():
            kind = "examples"
        options[kind] = data
    else:
        options["name"] = data
    return load_dataset(DatasetSpec(**options))


def print_table(table: list[list[str]]) -> None:
    """A table on standard output: by rich on a terminal, aligned text when piped."""
    if not table:
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        # A name may hold what rich takes for markup.
        head, *rows = table
        shown = Table(*map(escape, head))
        for row in rows:
            shown.add_row(*map(escape, row))
        Console().print(shown)
        return
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
