"""A recipe: a data set, a seed and a chain of stages, as YAML or in Python."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from tfcompress.data.spec import DatasetSpec
from tfcompress.errors import RecipeError, TfcompressError, nearest
from tfcompress.stages import STAGES, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run does.

    Attributes:
        name: of the run; its default folder is `runs/NAME`.
        dataset: which images.
        stages: in order; each may stand once.
        seed: of everything random.
    """

    name: str
    dataset: DatasetSpec
    stages: tuple[Stage, ...]
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, every default filled in."""
        return {
            "name": self.name,
            "seed": self.seed,
            "dataset": _plain(dataclasses.asdict(self.dataset)),
            "stages": [
                {stage.name: _plain(dataclasses.asdict(stage))} for stage in self.stages
            ],
        }

    def digest(self) -> str:
        """SHA-256 of the recipe; equal recipes have equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe file.

    Args:
        path: YAML file.
        overrides: "key=value" with dotted keys, such as "dataset=fashion_mnist" or
            "distill.steps=500"; values are YAML.

    Raises:
        RecipeError: no such file, no YAML, an unknown key or a value out of range;
            names the key and the nearest valid one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"Cannot read recipe '{path}': {_first_line(error)}"
        ) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"Recipe '{path}' is not valid YAML: {reason}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"Recipe '{path}' must be a mapping with the key 'stages'.")
    for override in overrides:
        _override(data, override)
    data.setdefault("name", Path(path).stem)
    return parse_recipe(data)


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """A recipe from plain data.

    Args:
        data: keys "dataset", "stages", and optionally "name" and "seed".

    Raises:
        RecipeError: see `load_recipe`.

    Example:
        >>> recipe = parse_recipe({"dataset": "digits", "stages": [{"teacher": {}}]})
        >>> recipe.stages[0].name
        'teacher'
    """
    for key in data:
        if key not in ("name", "dataset", "stages", "seed"):
            hint = nearest(str(key), ("name", "dataset", "stages", "seed"))
            raise RecipeError(f"Unknown recipe key '{key}'; {hint}")
    for key in ("dataset", "stages"):
        if key not in data:
            raise RecipeError(f"The recipe has no '{key}'.")
    dataset = data["dataset"]
    if isinstance(dataset, str):
        dataset = {"name": dataset}
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise RecipeError(f"seed must be a whole number from 0. Received: {seed}")
    name = data.get("name", "run")
    if not isinstance(name, str) or not name or "/" in name:
        raise RecipeError(f"name must be a word without '/'. Received: {name}")
    return Recipe(
        name=name,
        seed=seed,
        dataset=parse(DatasetSpec, dataset, "dataset"),
        stages=_stages(data["stages"]),
    )


def parse(cls: type, data: Any, where: str) -> Any:
    """A dataclass from plain data, validated by its field types.

    Args:
        cls: a dataclass; fields may be dataclasses themselves.
        data: a mapping; None stands for an empty one.
        where: what errors call it.

    Raises:
        RecipeError: an unknown key, or a value of the wrong type or range.
    """
    data = {} if data is None else data
    _check_keys(cls, data, where)
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{place}: {message}") from error
    except TfcompressError as error:
        raise RecipeError(f"{where}: {error}") from error


def parse_stage(cls: type[Stage], options: Any) -> Stage:
    """A stage from plain data; the key "preset" stands for options of that name.

    Args:
        cls: the stage.
        options: a mapping, or None; what it says goes before what its preset says.

    Raises:
        RecipeError: see `parse`; or no such preset.
    """
    if isinstance(options, Mapping) and "preset" in options:
        given = {key: value for key, value in options.items() if key != "preset"}
        name = str(options["preset"])
        try:
            options = cls.with_preset(name, given)
        except TfcompressError as error:
            raise RecipeError(f"{cls.name}.preset: {error}") from error
    return parse(cls, options, cls.name)


def nested_dataclass(hint: Any) -> type | None:
    """The dataclass in a field's type (also in "X or None"), or None."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((p for p in parts if dataclasses.is_dataclass(p)), None)


def _check_keys(cls: type, data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where} must be a mapping. Received: {data!r}")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for key, value in data.items():
        if key not in known:
            raise RecipeError(
                f"Unknown key '{where}.{key}'; {nearest(str(key), known)}"
            )
        inner = nested_dataclass(hints[key])
        if inner is not None and value is not None:
            _check_keys(inner, value, f"{where}.{key}")


def _stages(data: Any) -> tuple[Stage, ...]:
    if not isinstance(data, list) or not data:
        raise RecipeError("stages must be a list such as '- teacher: {steps: 500}'.")
    stages: list[Stage] = []
    have: set[str] = set()
    for entry in data:
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise RecipeError(
                f"Each stage is one name with its options. Received: {entry!r}"
            )
        name, options = next(iter(entry.items()))
        if name not in STAGES:
            raise RecipeError(f"No stage '{name}'; {nearest(str(name), STAGES)}")
        if any(stage.name == name for stage in stages):
            raise RecipeError(f"Stage '{name}' stands twice in the recipe.")
        stage = parse_stage(STAGES[name], options)
        for artefact in stage.needs:
            if artefact not in have:
                raise RecipeError(
                    f"Stage '{name}' needs the artefact '{artefact}': put the stage "
                    "that makes it before."
                )
        have.update(stage.gives)
        stages.append(stage)
    return tuple(stages)


def _override(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError(f"An override is key=value. Received: {override}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of override '{override}' is not YAML.") from error
    first, *path = key.split(".")
    if not path:
        data[first] = value
        return
    place = data.get(first)
    if first == "dataset" and isinstance(place, str):
        data[first] = place = {"name": place}
    if place is None and isinstance(data.get("stages"), list):
        data["stages"] = [
            {entry: {}} if isinstance(entry, str) else entry for entry in data["stages"]
        ]
        entries = [e for e in data["stages"] if isinstance(e, dict) and first in e]
        if not entries:
            raise RecipeError(f"Override '{override}': the recipe has no '{first}'.")
        entries[0][first] = place = entries[0][first] or {}
    for part in path[:-1]:
        if isinstance(place, dict):
            place = place.setdefault(part, {})
    if not isinstance(place, dict):
        raise RecipeError(f"Override '{override}': '{key}' is not inside a mapping.")
    place[path[-1]] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _first_line(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
