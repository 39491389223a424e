"""Lineage from the folder of a local run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfcompress.errors import RunFolderError
from tfcompress.lineage.record import (
    Layer,
    Lineage,
    Step,
    changed_options,
    data_options,
    layers_in,
)
from tfcompress.lineage.subject import (
    Match,
    Subject,
    match_by_contents,
    open_subject,
    refuse_changed,
)

# Artefacts that a stage reads, the one it goes on with last; of the inner tuples the
# first that there is. Other stages are taken to go on with the latest model.
_LATEST = (("compressed", "student", "teacher"),)
_READS = {
    "teacher": (),
    "distill": (("teacher",),),
    "factorize": (("teacher",), ("student",)),
    "compress": (("teacher",), ("student",)),
    "fine_tune": (("teacher",), ("compressed",)),
}
# Of the result of a stage.
_KEYS = ("stage", "artefacts", "hashes", "figures")
_FIGURES = ("accuracy", "agreement", "params", "macs", "bytes")
_MEASURED = ("accuracy", "agreement", "samples", "bytes", "macs")


def lineage_of_run(model: str | Path, folder: str | Path) -> Lineage:
    """What made a model, from the folder of a local run.

    The model is found by what it holds, so a copy by another name is found as well.

    Args:
        model: see `open_subject`.
        folder: of the run.

    Returns:
        Its lineage.

    Raises:
        ModelFileError: no such file, or no model.
        RunFolderError: not the folder of a run.
        LineageError: the run did not make the model, or it was changed since.

    Example:
        >>> made = lineage_of_run("small.tflite", "runs/digits")     # doctest: +SKIP
        >>> [step.name for step in made.steps]                       # doctest: +SKIP
        ['teacher', 'distill', 'compress', 'export_tflite']
    """
    subject = open_subject(model)
    run = _Run(Path(folder))
    match = run.find(subject)
    index, artefact = run.made_as(match.file)
    steps = list(run.steps_to(index, artefact))
    if match.exported:
        note = "exported from this model, by its metadata; no artefact of the run"
        steps.append(Step("export", reads=(steps[-1].name,), notes=(note,)))
    return Lineage(
        model=subject.path,
        sha256=subject.sha256,
        source=run.folder,
        data=run.data(run.results[index]),
        steps=tuple(steps),
        measured=run.measured(match.file),
        notes=(match.note,) if match.note else (),
    )


class _Run:
    """A run folder as its files tell it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "run.json").is_file():
            raise RunFolderError(
                f"'{folder}' is no run folder (it has no run.json): give the folder "
                "that `tfcompress run` wrote."
            )
        self.identity = _json(folder / "run.json")
        self.report = {}
        if (folder / "report.json").is_file():
            self.report = _json(folder / "report.json")
        self.recipe = _recipe(folder / "recipe.yaml")
        self.results: list[dict[str, Any]] = []
        for index, (name, _) in enumerate(_stages(self.recipe), start=1):
            place = folder / f"{index:02d}-{name}"
            if (place / "result.json").is_file():
                result = _json(place / "result.json", _KEYS)
                self.results.append({**result, "place": place})

    def files(self) -> dict[Path, str]:
        """All models that the run made, with their content hashes."""
        return {
            result["place"] / file: result["hashes"][name]
            for result in self.results
            for name, file in result["artefacts"].items()
        }

    def find(self, subject: Subject) -> Match:
        """The file of the run that a model is."""
        where, made = f"the run in '{self.folder}'", self.files()
        for path, sha256 in made.items():
            refuse_changed(subject, path, sha256, where=where)
        same = [path for path, sha256 in made.items() if sha256 == subject.sha256]
        # Of equal models the one that lies where the run put it, else the first.
        own = [path for path in same if path.resolve() == subject.path.resolve()]
        if same:
            return Match((own or same)[0])
        return match_by_contents(subject, made, where=where)

    def made_as(self, file: Path) -> tuple[int, str]:
        """Which result made a file, and under which name."""
        return next(
            (index, name)
            for index, result in enumerate(self.results)
            for name, other in result["artefacts"].items()
            if result["place"] / other == file
        )

    def steps_to(self, index: int, artefact: str) -> list[Step]:
        """What led to an artefact of a result, in order."""
        wanted = {index: artefact}
        reads: dict[int, list[int]] = {}
        # A stage reads only what those before it have made.
        for one in range(index, -1, -1):
            if one in wanted:
                sources = self._sources(one)
                reads[one] = list(sources)
                wanted = sources | wanted
        return [
            self._step(one, wanted[one], [self._name(r) for r in reads[one]])
            for one in sorted(wanted)
        ]

    def _sources(self, index: int) -> dict[int, str]:
        """The results that a result's stage read, and what of them."""
        latest = {
            name: one
            for one, result in enumerate(self.results[:index])
            for name in result["artefacts"]
        }
        stage = self.results[index]["stage"]
        found = {}
        for choices in _READS.get(stage, _LATEST):
            name = next((name for name in choices if name in latest), None)
            if name is not None:
                found[latest[name]] = name
        return found

    def _name(self, index: int) -> str:
        return self.results[index]["place"].name

    def _step(self, index: int, artefact: str, reads: list[str]) -> Step:
        result = self.results[index]
        stage = result["stage"]
        options = dict(_stages(self.recipe))[stage]
        file = result["artefacts"][artefact]
        path, sha256 = result["place"] / file, result["hashes"][artefact]
        versions = result.get("tfcompress") or self.identity.get("tfcompress")
        return Step(
            name=self._name(index),
            stage=stage,
            reads=tuple(reads) or ("data",),
            options=changed_options(stage, options),
            seed=self.recipe.get("seed"),
            figures=_figures(result["figures"], artefact),
            file=file,
            sha256=sha256,
            versions={"tfcompress": versions} if versions else {},
            layers=_layers(result["figures"], path),
            notes=tuple(self._notes(index)),
        )

    def _notes(self, index: int) -> list[str]:
        """Where what it was made of is not there any more."""
        result = self.results[index]
        return [
            f"it read a '{name}' of another content SHA-256, {result['inputs'][name]}: "
            f"{self._name(one)} was made anew since"
            for one, name in self._sources(index).items()
            if result.get("inputs", {}).get(name, self._hash(one, name))
            != self._hash(one, name)
        ]

    def _hash(self, index: int, name: str) -> str:
        return self.results[index]["hashes"][name]

    def data(self, result: dict[str, Any]) -> dict[str, Any]:
        """The data set: what the recipe says, and what the run found."""
        given = self.recipe.get("dataset") or {}
        known = self.report.get("dataset", {})
        fingerprint = result.get("data_fingerprint") or known.get("fingerprint")
        found = {
            "name": known.get("name") or given.get("name"),
            "sizes": known.get("sizes"),
            "fingerprint": fingerprint or "not known: the run has not ended",
            **data_options(given),
        }
        return {key: value for key, value in found.items() if value is not None}

    def measured(self, file: Path) -> dict[str, Any]:
        """What `evaluate` measured on a `.tflite` file."""
        stages = {one["stage"]: one for one in self.results}
        rows = stages.get("evaluate", {}).get("figures", {}).get("files", [])
        for row in rows:
            if row["file"] == file.name:
                found = {key: row[key] for key in _MEASURED if key in row}
                return found | {"latency_ms": row["latency"]["median_ms"]}
        return {}


def _figures(figures: dict[str, Any], artefact: str) -> dict[str, Any]:
    """The figures of what a stage made."""
    after = figures.get("after") or {}
    found = {key: after[key] for key in _FIGURES if key in after}
    size = figures.get("bytes")
    if isinstance(size, dict) and artefact in size:
        found["bytes"] = size[artefact]
    if "target_met" in figures:
        found["target_met"] = figures["target_met"]
    return found


def _layers(figures: dict[str, Any], path: Path) -> tuple[Layer, ...]:
    """The factorized layers, by the plan where it is there, else by the model."""
    if "target" not in figures:
        return ()
    if "layers" not in figures:
        return layers_in(path)
    return tuple(
        Layer(
            row["name"],
            row["kind"],
            tuple(row["ranks"]),
            (row["dense"]["params"], row["cost"]["params"]),
            (row["dense"]["macs"], row["cost"]["macs"]),
        )
        for row in figures["layers"]
        if row["ranks"]
    )


def _stages(recipe: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [next(iter(entry.items())) for entry in recipe["stages"]]


def _json(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"'{path}' of the run is damaged: {error}") from error
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise RunFolderError(f"'{path}' of the run is damaged: it lacks {keys}.")
    return found


def _recipe(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
        _stages(found)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"'{path}' of the run is damaged: {reason}") from error
    return found
