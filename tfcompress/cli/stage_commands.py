"""Commands made from stages: a stage's fields are its flags."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.common import open_data, refuse_the_model
from tfcompress.errors import TfcompressError
from tfcompress.metric import METRICS
from tfcompress.stages import Compress, Distill, Stage

_SIMPLE = (int, float, str, bool)


def add_stage_commands(app: typer.Typer) -> None:
    """Adds `compress` and `distill` to the command line."""
    app.command("compress", help="Factorize and fine-tune a model, in rounds.")(
        _command(Compress, "model", "The trained .keras file.")
    )
    app.command("distill", help="Train a small student to match a teacher.")(
        _command(Distill, "teacher", "The trained .keras file.")
    )


def flags(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flag names and types of a stage's simple fields, nested ones with a prefix.

    Example:
        >>> dict(flags(Compress))["target_macs"]
        float | None
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from flags(hint, f"{prefix}{field.name}_")
        elif _is_simple(hint):
            yield prefix + field.name, hint


def _is_simple(hint: Any) -> bool:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return all(part in _SIMPLE or part is types.NoneType for part in parts)


def _optional(hint: Any) -> Any:
    return hint if isinstance(hint, types.UnionType) else hint | None


def _default(stage: Any, flag: str) -> Any:
    """The value that a stage has for a flag's field, nested ones included."""
    if hasattr(stage, flag):
        return getattr(stage, flag)
    first = next(
        field.name
        for field in dataclasses.fields(stage)
        if flag.startswith(f"{field.name}_")
    )
    return _default(getattr(stage, first), flag.removeprefix(f"{first}_"))


def _docs(cls: type) -> dict[str, str]:
    """The Args of the docstrings of a class and its bases, for the help texts."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("tfcompress."):
            found |= _arguments(base)
    return found


def _arguments(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    lines = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2].splitlines()
    for line in lines:
        if line and not line.startswith(" "):
            break
        head, colon, text = line.strip().partition(": ")
        keys = [key.strip() for key in head.split(",")]
        if colon and line.startswith("    ") and all(k.isidentifier() for k in keys):
            names = keys
            found |= dict.fromkeys(names, text)
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _nested_docs(cls: type) -> dict[str, str]:
    hints = typing.get_type_hints(cls)
    docs = _docs(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = _docs(hint).items()
            docs |= {f"{field.name}_{key}": text for key, text in inner}
    return docs


def _nested(cls: type, given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Given flags as the mapping that a recipe would hold."""
    data: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = _nested(hint, given, f"{prefix}{field.name}_")
            if inner:
                data[field.name] = inner
        elif given.get(prefix + field.name) is not None:
            data[field.name] = given[prefix + field.name]
    return data


def _command(cls: type[Stage], subject: str, what: str) -> Callable[..., None]:
    docs = _nested_docs(cls)
    parameters = [
        inspect.Parameter(
            subject,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[Path, typer.Argument(help=what)],
        )
    ]

    def add(name: str, hint: Any, help_text: str, default: Any, *decl: str) -> None:
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[hint, typer.Option(*decl, help=help_text)],
                default=default,
            )
        )

    add(
        "data",
        str,
        "Data set name, or folder: images, IDX, examples.",
        ...,
        "--data",
    )
    add("output", Path, "The .keras file to write.", ..., "-o", "--output")
    add("image_size", str | None, "Resize images: HEIGHT,WIDTH in pixels.", None)
    add("pixel_range", str, "What the model takes for black and white.", "0,1")
    add("seed", int, "Of everything random.", 0)
    add("as_json", bool, "Print JSON instead of text.", False, "--json")
    if cls is Distill:
        add("preset", str | None, "A run of the paper: oxford_flowers102/1000.", None)
    own = list(flags(cls))
    for name, hint in own:
        default = _default(cls(), name)
        shown = "" if default is None else f" (default: {default})"
        add(name, _optional(hint), docs.get(name, "") + shown, None)

    def command(**given: Any) -> None:
        _run(cls, given, subject)

    for index, parameter in enumerate(parameters):
        if parameter.default is ...:
            parameters[index] = parameter.replace(default=inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = cls.name
    return command


def _run(cls: type[Stage], given: dict[str, Any], subject: str) -> None:
    from tfcompress.recipe import parse_stage

    preset = {"preset": given["preset"]} if given.get("preset") else {}
    stage = parse_stage(cls, _nested(cls, given) | preset)
    output: Path = given["output"]
    refuse_the_model(output, given[subject])
    if output.suffix != ".keras":
        raise TfcompressError(f"The output must end in .keras. Received: {output}")
    if not output.parent.is_dir():
        raise TfcompressError(f"There is no folder '{output.parent}' to write to.")
    from tfcompress.cli.quiet import quiet_stderr
    from tfcompress.progress import TerminalDisplay
    from tfcompress.stages import Context, load_model

    with (
        quiet_stderr() as console,
        TerminalDisplay(console) as display,
        tempfile.TemporaryDirectory() as folder,
    ):
        data = open_data(given["data"], given["image_size"], given["pixel_range"])
        load_model(given[subject], data)
        stage.check(data)
        display.start(1, 1, cls.name, done=False)
        context = Context(
            folder=Path(folder),
            data=data,
            seed=given["seed"],
            progress=display.update,
        )
        result = stage.run({"teacher": given[subject]}, context)
        made = result.artefacts[cls.gives[0]]
        partial = output.with_name(output.name + ".partial")
        try:
            shutil.copyfile(made, partial)
            partial.replace(output)
        except OSError as error:
            raise TfcompressError(
                f"'{output}' cannot be written: {error.strerror}."
            ) from error
    if given["as_json"]:
        typer.echo(json.dumps({"path": str(output)} | result.figures, indent=1))
        return
    before, after = (result.figures[key] for key in ("before", "after"))
    for key in ("params", "macs"):
        typer.echo(f"{key}: {before[key]:,} -> {after[key]:,}")
    metric = METRICS[data.task]
    typer.echo(
        f"validation {metric.label}: "
        f"{before[metric.key]:.4f} -> {after[metric.key]:.4f}"
    )
    if "target_met" in result.figures:
        typer.echo(f"target met: {'yes' if result.figures['target_met'] else 'NO'}")
    typer.echo(f"written: {output}")
