"""EvaluateTFLite: runs the file on the eval split, and blesses it or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import (
    ChannelParameter,
    ComponentSpec,
    ExecutionParameter,
)
from tfx.types.system_executions import Evaluate
from tfx.utils import io_utils

from tfcompress import __version__
from tfcompress.deploy.thresholds import Thresholds, failures
from tfcompress.tfx.component import schema_path, set_properties
from tfcompress.tfx.steps import evaluate_file


class EvaluateTFLiteExecutor(base_executor.BaseExecutor):
    """Measures the file, and writes the blessing."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict["model"])
        baseline = input_dict.get("baseline_model") or []
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        figures = evaluate_file(
            model.uri,
            examples=artifact_utils.get_single_uri(input_dict["examples"]),
            dataset=json.loads(exec_properties["dataset"]),
            baseline=baseline[0].uri if baseline else None,
            latency_runs=int(exec_properties["latency_runs"]),
            schema=schema_path(input_dict),
        )
        limits = Thresholds(**json.loads(exec_properties["thresholds"]))
        reasons = failures(figures, limits)
        name = (
            constants.NOT_BLESSED_FILE_NAME
            if reasons
            else (constants.BLESSED_FILE_NAME)
        )
        io_utils.write_string_file(f"{blessing.uri}/{name}", "\n".join(reasons))
        report = {"figures": figures, "failures": reasons}
        io_utils.write_string_file(
            f"{blessing.uri}/report.json", json.dumps(report, indent=1)
        )
        blessed = constants.NOT_BLESSED_VALUE if reasons else constants.BLESSED_VALUE
        blessing.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BLESSED_KEY, blessed
        )
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
        )
        blessing.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id
        )
        if baseline:
            blessing.set_string_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline[0].uri
            )
            blessing.set_int_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline[0].id
            )
        set_properties(blessing, figures)
        if reasons:
            blessing.set_string_custom_property("failures", "; ".join(reasons))


class EvaluateTFLiteSpec(ComponentSpec):
    """Channels and parameters of `EvaluateTFLite`."""

    PARAMETERS = {
        "thresholds": ExecutionParameter(type=str),
        "dataset": ExecutionParameter(type=str),
        "latency_runs": ExecutionParameter(type=int),
        "tfcompress": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(
            type=standard_artifacts.Model, optional=True
        ),
        "schema": ChannelParameter(type=standard_artifacts.Schema, optional=True),
    }
    OUTPUTS = {"blessing": ChannelParameter(type=standard_artifacts.ModelBlessing)}
    TYPE_ANNOTATION = Evaluate


class EvaluateTFLite(base_component.BaseComponent):
    """Accuracy, agreement and latency of a `.tflite` file; blesses what is good enough.

    Args:
        examples: Examples; the file is run on their `eval` (or `test`) split.
        model: the artefact of `ExportTFLite` or `Quantize`.
        baseline_model: a Model artefact to compare with.
        schema: Schema channel: names and shapes of the features.
        thresholds: what the file must hold; without any it is blessed.
        dataset: further options of `tfcompress.DatasetSpec`.
        latency_runs: timed samples; 0 measures no time.
    """

    SPEC_CLASS = EvaluateTFLiteSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(EvaluateTFLiteExecutor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel | None = None,
        *,
        schema: types.BaseChannel | None = None,
        thresholds: Thresholds | Mapping[str, float] | None = None,
        dataset: Mapping[str, Any] | None = None,
        latency_runs: int = 50,
    ) -> None:
        if not isinstance(thresholds, Thresholds):
            thresholds = Thresholds.of(thresholds or {})
        optional = {"baseline_model": baseline_model, "schema": schema}
        channels = {key: value for key, value in optional.items() if value is not None}
        super().__init__(
            spec=EvaluateTFLiteSpec(
                examples=examples,
                model=model,
                **channels,
                thresholds=json.dumps(thresholds.limits(), sort_keys=True),
                dataset=json.dumps(dict(dataset or {}), sort_keys=True),
                latency_runs=latency_runs,
                tfcompress=__version__,
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
