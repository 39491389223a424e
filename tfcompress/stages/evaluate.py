"""Evaluate: accuracy, agreement and latency of the files, on the test split, once."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.deploy.forms import AUTO, QUANTIZATIONS
from tfcompress.deploy.thresholds import Thresholds, failures
from tfcompress.errors import OptionError
from tfcompress.metric import CLASSIFICATION
from tfcompress.stages.base import Context, Stage, StageResult, load_model
from tfcompress.stages.disagreement import write_disagreements
from tfcompress.stages.inspection import export_rounds, quantization_errors

if TYPE_CHECKING:
    from tfcompress.data import Dataset
    from tfcompress.metric import Metric

MODELS = ("teacher", "student", "compressed")
# Files that hold the model's own layers; "auto" and "quantized" change them first.
_COMPARED = [name for name in QUANTIZATIONS if name != "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Runs every `.tflite` file on the test split, and times all of them in turn.

    Teacher and student are exported to float32 files for this, so that every row of
    the report is measured on a file, in one run. So are the candidates of the rounds of
    `compress`, for their latency. The first test images on which a file of the latest
    model disagrees with the teacher are kept, and the error of every layer of its
    quantized files.

    Args:
        latency_runs: timed samples per file.
        warmup: untimed runs before.
        num_threads: threads of the interpreter for latency.
        thresholds: what the files of the latest model must hold to be blessed; drop
            and agreement are against the teacher.

    Raises:
        OptionError: an argument out of range.

    Example:
        >>> Evaluate(thresholds=Thresholds(max_drop=0.01)).thresholds.limits()
        {'max_drop': 0.01}
    """

    name = "evaluate"
    needs = ("teacher",)
    gives = ()

    latency_runs: int = 100
    warmup: int = 20
    num_threads: int = 1
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.latency_runs < 1 or self.warmup < 0 or self.num_threads < 1:
            raise OptionError(
                "latency_runs and num_threads must be positive, warmup not negative"
            )

    def check(self, data: Dataset) -> None:
        if data.task == CLASSIFICATION:
            return
        for name in ("min_accuracy", "min_agreement"):
            if getattr(self.thresholds, name) is not None:
                raise OptionError(
                    f"evaluate: {name} is for classification, and data set "
                    f"'{data.name}' is for {data.task}; use max_drop, of its own metric"
                )

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        from tfcompress.cost import model_cost
        from tfcompress.deploy import export_tflite, measure_latency
        from tfcompress.tasks import compiled, task_of

        data, task = context.data, task_of(context.data)
        models = {
            name: load_model(inputs[name], data) for name in MODELS if name in inputs
        }
        latest = list(models)[-1]
        files: dict[str, tuple[str, Path]] = {}
        for name, model in models.items():
            if name == latest and "float32" in inputs:
                continue
            path = context.folder / f"{name}_float32.tflite"
            exported = export_tflite(model, path, metadata=data.metadata())
            files[f"{name} float32"] = (name, exported)
        for name in (*QUANTIZATIONS, AUTO, "quantized"):
            if name in inputs:
                files[f"{latest} {name}"] = (latest, inputs[name])
        forward = {name: compiled(model) for name, model in models.items()}
        threads = os.cpu_count()
        rows: list[dict[str, Any]] = []
        for index, (title, (name, path)) in enumerate(files.items()):
            scores = task.file_figures(
                path,
                data.batches("test", 256),
                teacher=forward["teacher"],
                own=forward[name],
                num_threads=threads,
            )
            cost = model_cost(models[name], data.image_shape)
            rows.append(
                {
                    "name": title,
                    "model": name,
                    "file": path.name,
                    "params": cost.params,
                    "macs": cost.macs,
                    "bytes": path.stat().st_size,
                    **scores,
                }
            )
            context.progress(index + 1, len(files) + 1, {})
        start = "student" if "student" in models else "teacher"
        rounds = {}
        candidates = context.folder / "rounds"
        if "compressed" in inputs:
            rounds = export_rounds(inputs["compressed"], models[start], candidates)
        latency = measure_latency(
            {title: path for title, (_, path) in files.items()} | rounds,
            runs=self.latency_runs,
            warmup=self.warmup,
            num_threads=self.num_threads,
            seed=context.seed,
        )
        if candidates.exists():
            shutil.rmtree(candidates)
        for row in rows:
            row["latency"] = latency[row["name"]].to_dict()
        last = {title: path for title, (name, path) in files.items() if name == latest}
        figures = {
            "split": "test",
            "files": rows,
            "layer_errors": quantization_errors(
                {t: p for t, p in last.items() if t.split()[1] in _COMPARED},
                models[latest],
                data,
                seed=context.seed,
            ),
        }
        if data.task == CLASSIFICATION:
            figures["disagreements"] = write_disagreements(
                context.folder, last, forward["teacher"], data, num_threads=threads
            )
        if rounds:
            figures["rounds"] = {
                "before": {"latency": latency[f"{start} float32"].to_dict()},
                "rounds": [{"latency": latency[name].to_dict()} for name in rounds],
            }
        context.progress(len(files) + 1, len(files) + 1, {})
        if self.thresholds.limits():
            shipped = [row for row in rows if row["model"] == latest]
            figures["thresholds"] = self.thresholds.limits()
            figures["failures"] = self._failures(shipped, rows[0], task.metric)
        return StageResult({}, figures)

    def _failures(
        self, rows: list[dict[str, Any]], baseline: dict[str, Any], metric: Metric
    ) -> dict[str, list[str]]:
        """What does not hold, by file; empty where a file is blessed."""
        key = metric.key
        return {
            row["name"]: failures(
                {
                    **{x: row[x] for x in ("accuracy", "agreement") if x in row},
                    "drop": metric.drop(baseline[key], row[key]),
                    "bytes": row["bytes"],
                    "latency_ms": row["latency"]["median_ms"],
                },
                self.thresholds,
            )
            for row in rows
        }
