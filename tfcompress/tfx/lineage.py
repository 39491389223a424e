"""Lineage from ML Metadata: what the components wrote, walked upstream.

This module imports no tfx, and ml_metadata only when it is used.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tfcompress.files import content_hash
from tfcompress.lineage.record import (
    Lineage,
    LineageError,
    Step,
    changed_options,
    data_options,
    layers_in,
)
from tfcompress.lineage.subject import (
    ARTEFACT_FILES,
    Match,
    Subject,
    match_by_contents,
    open_subject,
    refuse_changed,
)
from tfcompress.tfx.metadata import open_store, values_of

# Execution properties of our components that are no options of a stage.
_COMMON = ("stage", "dataset", "seed", "tfcompress")
_FIGURES = ("accuracy", "agreement", "params", "macs", "bytes", "target_met")
_MEASURED = ("accuracy", "agreement", "drop", "samples", "bytes", "latency_ms")
_EXAMPLES = ("input_base", "input_fingerprint", "span", "version")
_FACTORIZING = ("compress", "factorize")


def lineage_of_metadata(model: str | Path, file: str | Path) -> Lineage:
    """What made a model, from the ML Metadata of a TFX run.

    The model is found by what it holds, so a copied or pushed file is found as well.

    Args:
        model: see `tfcompress.lineage.open_subject`.
        file: the SQLite file of ML Metadata; it is only read.

    Returns:
        Its lineage.

    Raises:
        ModelFileError: no such model file, or no model.
        LineageError: no ML Metadata, or none of this model; or ml_metadata is missing.
    """
    subject = open_subject(model)
    file = Path(file)
    return _Reader(open_store(file), file).lineage(subject)


class _Reader:
    """Artefacts and executions of a store as steps."""

    def __init__(self, store: Any, file: Path) -> None:
        from ml_metadata.proto import metadata_store_pb2 as pb

        self.store, self.file = store, file
        self.inputs = (pb.Event.INPUT, pb.Event.DECLARED_INPUT)
        self.outputs = (pb.Event.OUTPUT, pb.Event.DECLARED_OUTPUT)
        self.cached = pb.Execution.CACHED
        self.types = {one.id: one.name for one in store.get_execution_types()}
        self.models = {one.id: one for one in self.of_type("Model")}

    def of_type(self, name: str) -> list[Any]:
        """All artefacts of a type that there may be."""
        known = {one.name for one in self.store.get_artifact_types()}
        return self.store.get_artifacts_by_type(name) if name in known else []

    def lineage(self, subject: Subject) -> Lineage:
        """The lineage of a model."""
        artefact, match = self.find(subject)
        made, order = self.upstream(artefact)
        sources = {one: self.sources(one) for one in order}
        # Examples that are made of nothing are the data.
        roots = [
            one for one in order if made[one].type == "Examples" and not sources[one]
        ]
        steps = [
            self.step(one, made[one], sources[one], roots)
            for one in order
            if one not in roots
        ]
        if match.exported:
            note = "exported from this model, by its metadata; no artefact of the run"
            steps.append(Step("export", reads=(steps[-1].name,), notes=(note,)))
        elif not any(step.layers for step in steps) and not subject.tflite:
            steps[-1] = dataclasses.replace(steps[-1], layers=layers_in(subject.path))
        return Lineage(
            model=subject.path,
            sha256=subject.sha256,
            source=self.file,
            data=self.data(roots, order, made),
            steps=tuple(steps),
            measured={} if match.exported else self.measured(subject.sha256),
            notes=(match.note,) if match.note else (),
        )

    def find(self, subject: Subject) -> tuple[Any, Match]:
        """The Model artefact that a model is, or was exported from."""
        where = f"the run in '{self.file}'"
        made: dict[Path, str] = {}
        holders: dict[Path, Any] = {}
        same = []
        # Of equal ones the latest.
        for artefact in sorted(self.models.values(), key=lambda one: -one.id):
            recorded = values_of(artefact).get("content_sha256")
            if recorded == subject.sha256:
                same.append(artefact)
            for path in _files(artefact):
                made[path] = recorded or content_hash(path)
                holders[path] = artefact
                refuse_changed(subject, path, made[path], where=where)
        if same:
            return same[0], Match(subject.path)
        for path, sha256 in made.items():
            if sha256 == subject.sha256:
                return holders[path], Match(path)
        match = match_by_contents(subject, made, where=where)
        return holders[match.file], match

    def upstream(self, artefact: Any) -> tuple[dict[int, Any], list[int]]:
        """The executions that led to an artefact, each with what it made of it."""
        made: dict[int, Any] = {}
        waiting = [artefact]
        while waiting:
            one = waiting.pop()
            maker = self.maker(one.id)
            if maker is None or maker in made:
                continue
            made[maker] = one
            waiting += self.store.get_artifacts_by_id(list(self.sources(maker)))
        if not made:
            raise LineageError(
                f"'{self.file}' does not say what made the artefact '{artefact.uri}'."
            )
        # An execution comes after those whose artefacts it reads.
        return made, sorted(made)

    def maker(self, artefact: int) -> int | None:
        """The execution that made an artefact, and not one that took it from cache."""
        events = self.store.get_events_by_artifact_ids([artefact])
        found = [e.execution_id for e in events if e.type in self.outputs]
        executions = self.store.get_executions_by_id(found) if found else []
        own = [e.id for e in executions if e.last_known_state != self.cached]
        return min(own or found, default=None)

    def sources(self, execution: int) -> dict[int, int]:
        """Artefacts that an execution read, and what made them; `model` last."""
        events = self.store.get_events_by_execution_ids([execution])
        read = [e for e in events if e.type in self.inputs]
        last = ("model", "base_model")
        read.sort(key=lambda e: any(s.key in last for s in e.path.steps))
        makers = {e.artifact_id: self.maker(e.artifact_id) for e in read}
        return {key: maker for key, maker in makers.items() if maker is not None}

    def execution(self, number: int) -> Any:
        (found,) = self.store.get_executions_by_id([number])
        return found

    def name(self, number: int) -> str:
        """The component's id in its pipeline, with the number of the execution."""
        kind = self.types[self.execution(number).type_id].rsplit(".", 1)[-1]
        for context in self.store.get_contexts_by_execution(number):
            if context.type == "node":
                # PIPELINE.COMPONENT
                kind = context.name.rsplit(".", 1)[-1]
        return f"{kind} (execution {number})"

    def step(
        self, number: int, artefact: Any, sources: dict[int, int], roots: list[int]
    ) -> Step:
        """An execution as a step."""
        given = values_of(self.execution(number))
        found = values_of(artefact)
        based = any(one in self.models for one in sources)
        stage, options, seed = _stage(given, based)
        reads = [self.name(one) for one in sources.values() if one not in roots]
        if not reads and sources:
            reads = ["data"]
        notes = []
        files = _files(artefact)
        sha256 = found.get("content_sha256")
        if sha256 is None and files and artefact.type == "Model":
            sha256 = content_hash(files[0])
            notes.append("the metadata hold no hash of it; this is the file's as it is")
        versions = {
            "tfcompress": given.get("tfcompress") or found.get("tfcompress"),
            "tfx": found.get("tfx_version"),
        }
        figures = {key: found[key] for key in _FIGURES if key in found}
        if "target_met" in figures:
            figures["target_met"] = bool(figures["target_met"])
        factorized = stage in _FACTORIZING and files
        return Step(
            name=self.name(number),
            stage=stage,
            reads=tuple(dict.fromkeys(reads)),
            options=options,
            seed=seed,
            figures=figures,
            file=artefact.uri,
            sha256=sha256,
            versions={key: value for key, value in versions.items() if value},
            layers=layers_in(files[0]) if factorized else (),
            notes=tuple(notes),
        )

    def data(
        self, roots: list[int], order: list[int], made: dict[int, Any]
    ) -> dict[str, Any]:
        """The data set: its name and options, its fingerprint, and where it was."""
        options: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for one in order:
            given = values_of(self.execution(one))
            options |= _json(given.get("dataset")) or {}
            options |= _json(given.get("custom_config")).get("dataset", {})
            fingerprint = values_of(made[one]).get("data_fingerprint")
            if fingerprint:
                found["fingerprint"] = fingerprint
        for one in roots:
            given = values_of(self.execution(one)) | values_of(made[one])
            found |= {key: given[key] for key in _EXAMPLES if key in given}
            found["examples"] = made[one].uri
        return {"name": options.get("name"), **found, **data_options(options)}

    def measured(self, sha256: str) -> dict[str, Any]:
        """What EvaluateTFLite found, the last time."""
        for blessing in sorted(self.of_type("ModelBlessing"), key=lambda one: -one.id):
            found = values_of(blessing)
            if found.get("content_sha256") == sha256:
                figures = {key: found[key] for key in _MEASURED if key in found}
                figures["blessed"] = bool(found.get("blessed"))
                if found.get("failures"):
                    figures["not_blessed_because"] = found["failures"]
                return figures
        return {}


def _stage(given: dict[str, Any], based: bool) -> tuple[str | None, dict, int | None]:
    """The stage that an execution was, its changed options and the seed.

    Args:
        given: its properties.
        based: whether it read a model.
    """
    if "stage" in given:
        stage = given["stage"]
        options = {
            key: json.loads(value)
            for key, value in sorted(given.items())
            if key not in _COMMON and isinstance(value, str)
        }
        return stage, changed_options(stage, options), int(given["seed"])
    if str(given.get("run_fn", "")).startswith("tfcompress."):
        config = _json(given.get("custom_config"))
        stage = "fine_tune" if based else "teacher"
        changed = changed_options(stage, config.get("options", {}))
        return stage, changed, config.get("seed", 0)
    # Of other components only what Importer takes.
    known = ("source_uri",)
    return None, {key: given[key] for key in known if key in given}, None


def _json(text: Any) -> dict[str, Any]:
    found = json.loads(text) if isinstance(text, str) and text else {}
    return found if isinstance(found, dict) else {}


def _files(artefact: Any) -> list[Path]:
    """Model files of an artefact, where they are on this machine."""
    paths = (Path(artefact.uri) / name for name in ARTEFACT_FILES)
    return [path for path in paths if path.is_file()]
