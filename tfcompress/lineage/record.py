"""A lineage as data, and as text."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfcompress.data.spec import DatasetSpec
from tfcompress.errors import TfcompressError
from tfcompress.stages import STAGES


class LineageError(TfcompressError, ValueError):
    """A model that a run did not make, or a run that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A factorized layer.

    Attributes:
        name: of the layer; in a nested model with the model's name before it.
        kind: its type, such as "Tucker2Conv2D".
        ranks: one or several.
        params, macs: (before, after); None where only the model file tells of it.

    Example:
        >>> layer = Layer("conv", "Tucker2Conv2D", (16, 24), params=(36928, 6080))
        >>> layer.params[1] / layer.params[0] < 0.2
        True
    """

    name: str
    kind: str
    ranks: tuple[int, ...]
    params: tuple[int, int] | None = None
    macs: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that was done on the way to a model.

    Attributes:
        name: of the step in its run; no two have the same.
        stage: of tfcompress that it was, or None.
        reads: names of the steps whose models it read, the one it went on with last;
            "data" where it read no model.
        options: those that differ from the stage's defaults, nested ones with dots.
        seed: of the recipe.
        figures: accuracy, MACs and so on of what it made.
        file: what it made.
        sha256: the content hash of that.
        versions: of the code.
        layers: what it factorized.
        notes: what a reader should know.

    Example:
        >>> Step("distill", stage="distill", reads=("teacher",), seed=0).reads
        ('teacher',)
    """

    name: str
    stage: str | None = None
    reads: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: str | None = None
    sha256: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Where a model comes from.

    Attributes:
        model: the file that was asked about.
        sha256: its content hash (see `tfcompress.files.content_hash`).
        source: the run folder or the metadata file.
        data: name, fingerprint, sizes and options of the data set.
        steps: in order; the last made the model.
        measured: figures of the very file, from the stage that evaluated it.
        notes: what a reader should know.

    Example:
        >>> made = lineage_of_run("small.tflite", "runs/digits")     # doctest: +SKIP
        >>> made.steps[-1].name, made.data["name"]                   # doctest: +SKIP
        ('export_tflite', 'digits')
    """

    model: Path
    sha256: str
    source: Path
    data: dict[str, Any]
    steps: tuple[Step, ...]
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The factorized layers of the model: what the latest step says of them."""
        return next((s.layers for s in reversed(self.steps) if s.layers), ())

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        found = dataclasses.asdict(self)
        return found | {"model": str(self.model), "source": str(self.source)}

    def head(self) -> list[str]:
        """Which model it is, and where that was found."""
        return [
            str(self.model),
            f"content SHA-256 {self.sha256}",
            f"run {self.source}",
            *self.notes,
        ]

    def blocks(self) -> Iterator[tuple[str, list[str]]]:
        """A title and lines for the data and each step, the data first."""
        rest = dict(self.data)
        name, sizes = rest.pop("name", None), rest.pop("sizes", None)
        title = f"data {name or 'of no name'}"
        if sizes:
            counts = ", ".join(f"{count:,} {split}" for split, count in sizes.items())
            title += f": {counts} images"
        yield title, [f"{key} {shown(value)}" for key, value in rest.items()]
        for step in self.steps:
            origin = f", from {', '.join(step.reads)}" if step.reads else ""
            yield step.name + origin, _lines(step)
        if self.measured:
            yield "measured on the file, test split", [_figures(self.measured)]

    def table(self) -> list[list[str]]:
        """Header and rows of the factorized layers; empty without any."""
        if not self.layers:
            return []
        costs = any(layer.params or layer.macs for layer in self.layers)
        table = [["layer", "type", "ranks", *(["params", "MACs"] if costs else [])]]
        for layer in self.layers:
            row = [layer.name, layer.kind, "x".join(map(str, layer.ranks))]
            changes = [_change(layer.params), _change(layer.macs)]
            table.append([*row, *(changes if costs else [])])
        return table


def _lines(step: Step) -> list[str]:
    lines = []
    if step.options:
        options = (f"{key} {shown(value)}" for key, value in step.options.items())
        lines.append("options: " + ", ".join(options))
    about = {} if step.seed is None else {"seed": step.seed}
    about |= step.versions
    if about:
        lines.append(", ".join(f"{key} {value}" for key, value in about.items()))
    if step.figures:
        lines.append(_figures(step.figures))
    if step.sha256 is not None:
        lines.append(f"{step.file} {step.sha256}")
    return [*lines, *step.notes]


_WORDS = {"macs": "MACs", "latency_ms": "latency in ms"}


def _figures(figures: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_WORDS.get(key, key.replace('_', ' '))} {shown(value)}"
        for key, value in figures.items()
    )


def shown(value: Any) -> str:
    """A value as text for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(value.split()) if isinstance(value, str) else json.dumps(value)


def _change(pair: tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]:,} -> {pair[1]:,}"


def changed_options(stage: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stage that differ from its defaults, nested ones with dots.

    Args:
        stage: its name; of one that is not known all options are given.
        options: plain data, as a recipe holds it.

    Example:
        >>> changed_options("teacher", {"steps": 60, "views": {"crop": "mild"}})
        {'steps': 60}
    """
    return _changed(options, STAGES[stage]() if stage in STAGES else None)


def data_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data set that differ from the defaults; not its name."""
    found = _changed(options, DatasetSpec(name="any"))
    return {key: value for key, value in found.items() if key != "name"}


def _changed(options: Mapping[str, Any], default: Any) -> dict[str, Any]:
    known = {}
    if default is not None:
        # Through JSON, which has lists where Python has tuples.
        known = flat(json.loads(json.dumps(dataclasses.asdict(default))))
    missing = object()
    return {
        key: value
        for key, value in flat(options).items()
        if known.get(key, missing) != value
    }


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; empty ones are left out."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def layers_in(path: Path) -> tuple[Layer, ...]:
    """The factorized layers of a `.keras` file, by its configuration alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        # The ranks are one of many things that are told, and the file is not asked.
        return ()
    return tuple(_layers(config, ""))


def _layers(config: Any, prefix: str) -> Iterator[Layer]:
    """All of them, in nested models too."""
    own = config.get("config") if isinstance(config, Mapping) else None
    if not isinstance(own, Mapping):
        return
    ours = str(config.get("module", "")).startswith("tfcompress.")
    if ours and "ranks" in own:
        name, kind = f"{prefix}{own.get('name')}", config["class_name"]
        ranks = own["ranks"]
        # Attention has ranks for each of its projections.
        parts = ranks if isinstance(ranks, Mapping) else {"": ranks}
        for part, some in parts.items():
            some = tuple(some) if isinstance(some, list) else (some,)
            yield Layer(f"{name}/{part}" if part else name, kind, some)
        return
    inner = own.get("layers")
    # A wrapper such as TimeDistributed holds one layer.
    inner = inner if isinstance(inner, list) else [own.get("layer")]
    for layer in inner:
        name = layer.get("config") if isinstance(layer, Mapping) else None
        nested = isinstance(name, Mapping) and "layers" in name
        yield from _layers(layer, f"{prefix}{name['name']}/" if nested else prefix)
