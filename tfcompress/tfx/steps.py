"""A stage on artefacts: what the components do. This module imports no tfx."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfcompress import __version__
from tfcompress.data import Dataset, load_dataset
from tfcompress.data.examples import example_features
from tfcompress.data.schema import schema_options
from tfcompress.data.spec import DatasetSpec, as_spec
from tfcompress.errors import TfcompressError
from tfcompress.files import content_hash
from tfcompress.recipe import parse_stage
from tfcompress.runner import seed_everything, stage_seed
from tfcompress.stages import STAGES, Context, Stage
from tfcompress.tfx.artifacts import (
    KERAS_FILE,
    TFLITE_FILE,
    local_copy,
    save_model,
    save_tflite,
)

# A figure by the name "after" is what a stage's artefact is worth.
_NUMBERS = (int, float)


def run_stage(
    name: str,
    options: Mapping[str, Any],
    *,
    examples: str,
    models: Mapping[str, str],
    output: str,
    dataset: Mapping[str, Any],
    seed: int,
    folder: Path,
    schema: str | None = None,
    transform_graph: str | None = None,
) -> dict[str, Any]:
    """Runs a stage on artefacts; the same seed gives what the local runner makes.

    Args:
        name: of the stage.
        options: its fields.
        examples: URI of the Examples artefact.
        models: URIs of Model artefacts by what the stage calls them.
        output: URI of the artefact to fill.
        dataset: further options of `DatasetSpec`.
        seed: of the recipe.
        folder: for work; kept for a restart where the caller keeps it.
        schema: path of the examples' `schema.pbtxt`, or None.
        transform_graph: URI of the TransformGraph artefact that made the examples, or
            None.

    Returns:
        Figures, as plain numbers and strings.

    Raises:
        TfcompressError: data, models or options that do not fit.
    """
    stage = parse_stage(STAGES[name], dict(options))
    spec = dataset_spec(examples, dataset, schema=schema)
    data = load_dataset(spec)
    stage.check(data)
    own = stage_seed(seed, name)
    seed_everything(own)
    with contextlib.ExitStack() as stack:
        inputs = {
            key: stack.enter_context(local_copy(uri, KERAS_FILE))
            for key, uri in models.items()
        }
        made, figures = stage.run(inputs, Context(folder=folder, data=data, seed=own))
    file = fill(output, made, spec, data, transform_graph=transform_graph)
    return {
        **properties(figures),
        "content_sha256": content_hash(file),
        "data_fingerprint": data.fingerprint,
        "tfcompress": __version__,
    }


def dataset_spec(
    examples: str, options: Mapping[str, Any], *, schema: str | None = None
) -> DatasetSpec:
    """The data set that an Examples artefact is.

    Args:
        examples: URI of the artefact.
        options: further ones of `DatasetSpec`.
        schema: path of a `schema.pbtxt`, or None.

    Raises:
        TfcompressError: wrong options, or a schema without image or label.
    """
    if schema is not None:
        options = schema_options(schema, options)
    return as_spec({"name": "examples", **options, "examples": examples})


def fill(
    output: str,
    made: Mapping[str, Path],
    spec: DatasetSpec,
    data: Dataset,
    *,
    transform_graph: str | None = None,
) -> Path:
    """Puts what a stage made into an artefact.

    Returns:
        The stage's own file.

    Raises:
        TfcompressError: several files, for which one artefact is too few.
    """
    if len(made) != 1:
        raise TfcompressError(
            f"A component makes one model; name one quantization. Received: {set(made)}"
        )
    (file,) = made.values()
    if file.suffix == ".tflite":
        save_tflite(file, output)
    else:
        from tfcompress.stages import load_model

        save_model(
            load_model(file, data),
            output,
            features=example_features(spec),
            pixel_range=data.pixel_range,
            transform_graph=transform_graph,
            keras_file=file,
        )
    return file


def properties(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The plain figures of a result: those of "after", and what stands beside it."""
    flat = {**figures, **(figures.get("after") or {})}
    return {
        key: value
        for key, value in flat.items()
        if isinstance(value, (*_NUMBERS, str)) and not key.startswith("_")
    }


def as_json(stage: Stage) -> dict[str, str]:
    """A stage's fields as JSON texts, for execution properties."""
    return {
        field.name: json.dumps(plain(getattr(stage, field.name)))
        for field in dataclasses.fields(stage)
    }


def plain(value: Any) -> Any:
    """Dataclasses and tuples as mappings and lists."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


@contextlib.contextmanager
def tflite_of(uri: str) -> Iterator[Path]:
    """The `.tflite` file of an artefact, as a local file."""
    with local_copy(uri, TFLITE_FILE) as path:
        yield path


def read_text(path: str) -> str:
    """A text file anywhere."""
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def evaluate_file(
    model: str,
    *,
    examples: str,
    dataset: Mapping[str, Any],
    baseline: str | None,
    latency_runs: int,
    schema: str | None = None,
) -> dict[str, Any]:
    """Figures of the `.tflite` file in an artefact, on the test split.

    Args:
        model: URI of the artefact.
        examples: URI of the Examples artefact.
        dataset: further options of `DatasetSpec`.
        baseline: URI of the Model artefact to compare with, or None.
        latency_runs: timed samples; 0 measures no time.
        schema: path of a `schema.pbtxt`, or None.

    Returns:
        "accuracy", "bytes", "samples"; with a baseline "agreement", "drop" and
        "baseline_accuracy"; "latency_ms".
    """
    from tfcompress.deploy import evaluate_tflite, measure_latency
    from tfcompress.stages import load_model

    data = load_dataset(dataset_spec(examples, dataset, schema=schema))
    test = data.batches("test", 256)
    with tflite_of(model) as path:
        reference = None
        if baseline is not None:
            with local_copy(baseline, KERAS_FILE) as file:
                reference = load_model(file, data)
        found = evaluate_tflite(
            path, test, reference=reference, num_threads=os.cpu_count()
        )
        figures = {
            "accuracy": found["accuracy"],
            "samples": found["samples"],
            "bytes": path.stat().st_size,
            "content_sha256": content_hash(path),
        }
        if reference is not None:
            whole = found["reference_accuracy"]
            figures |= {
                "agreement": found["agreement"],
                "baseline_accuracy": whole,
                "drop": whole - found["accuracy"],
            }
        if latency_runs:
            (latency,) = measure_latency([path], runs=latency_runs).values()
            figures["latency_ms"] = latency.median_ms
    return figures
