"""Stages as TFX components: one adapter for all of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import (
    ChannelParameter,
    ComponentSpec,
    ExecutionParameter,
)
from tfx.types.system_executions import Train, Transform
from tfx.utils import io_utils

from tfcompress import __version__
from tfcompress.recipe import parse_stage
from tfcompress.stages import STAGES, Stage
from tfcompress.tfx.steps import as_json, run_stage

# Beside a stage's own fields.
_COMMON = ("stage", "dataset", "seed", "tfcompress")

# Beside the examples and the models: what each component may be given.
ABOUT_EXAMPLES = {
    "schema": standard_artifacts.Schema,
    "transform_graph": standard_artifacts.TransformGraph,
}


class StageExecutor(base_executor.BaseExecutor):
    """Runs the stage that the execution properties name."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        name = exec_properties["stage"]
        fields = {
            key: json.loads(value)
            for key, value in exec_properties.items()
            if key not in _COMMON and value is not None
        }
        (key,) = output_dict
        output = artifact_utils.get_single_instance(output_dict[key])
        models = {
            _INPUTS[name][channel]: artifact_utils.get_single_uri(found)
            for channel, found in input_dict.items()
            if channel in _INPUTS[name] and found
        }
        # What needs a teacher by name, but only looks at the model, gets that.
        models.setdefault("teacher", next(iter(models.values())))
        with tempfile.TemporaryDirectory() as folder:
            figures = run_stage(
                name,
                fields,
                examples=artifact_utils.get_single_uri(input_dict["examples"]),
                models=models,
                output=output.uri,
                dataset=json.loads(exec_properties["dataset"]),
                seed=int(exec_properties["seed"]),
                folder=Path(folder),
                schema=schema_path(input_dict),
                transform_graph=_optional_uri(input_dict, "transform_graph"),
            )
        set_properties(output, figures)


def schema_path(input_dict: Mapping[str, list[types.Artifact]]) -> str | None:
    """The file in the Schema artefact, where there is one."""
    uri = _optional_uri(input_dict, "schema")
    return None if uri is None else io_utils.get_only_uri_in_dir(uri)


def _optional_uri(
    input_dict: Mapping[str, list[types.Artifact]], channel: str
) -> str | None:
    found = input_dict.get(channel)
    return artifact_utils.get_single_uri(found) if found else None


def set_properties(artifact: types.Artifact, figures: Mapping[str, Any]) -> None:
    """Figures as custom properties of an artefact."""
    for key, value in figures.items():
        if isinstance(value, (bool, int)):
            artifact.set_int_custom_property(key, int(value))
        elif isinstance(value, float):
            artifact.set_float_custom_property(key, value)
        else:
            artifact.set_string_custom_property(key, str(value))


# Of each component: its channels, and what its stage calls them.
_INPUTS = {
    "distill": {"teacher": "teacher"},
    "factorize": {"teacher": "teacher", "model": "student"},
    "fine_tune": {"teacher": "teacher", "model": "compressed"},
    "compress": {"teacher": "teacher", "model": "student"},
    "quantize": {"model": "compressed"},
    "export_tflite": {"model": "compressed"},
}
_OUTPUTS = {
    "distill": "student_model",
    "factorize": "compressed_model",
    "fine_tune": "tuned_model",
    "compress": "compressed_model",
    "quantize": "tflite_model",
    "export_tflite": "tflite_model",
}
_OPTIONAL = {("factorize", "model"), ("compress", "model")}


def _spec_class(stage: type[Stage]) -> type[ComponentSpec]:
    import dataclasses

    name = stage.name
    parameters = {
        field.name: ExecutionParameter(type=str, optional=True)
        for field in dataclasses.fields(stage)
    }
    parameters |= {
        "stage": ExecutionParameter(type=str),
        "dataset": ExecutionParameter(type=str),
        "seed": ExecutionParameter(type=int),
        "tfcompress": ExecutionParameter(type=str),
    }
    inputs = {"examples": ChannelParameter(type=standard_artifacts.Examples)}
    for channel in _INPUTS[name]:
        inputs[channel] = ChannelParameter(
            type=standard_artifacts.Model, optional=(name, channel) in _OPTIONAL
        )
    for channel, kind in ABOUT_EXAMPLES.items():
        inputs[channel] = ChannelParameter(type=kind, optional=True)
    return type(
        f"{stage.__name__}Spec",
        (ComponentSpec,),
        {
            "PARAMETERS": parameters,
            "INPUTS": inputs,
            "OUTPUTS": {
                _OUTPUTS[name]: ChannelParameter(type=standard_artifacts.Model)
            },
            "TYPE_ANNOTATION": Transform if _OUTPUTS[name] == "tflite_model" else Train,
        },
    )


class StageComponent(base_component.BaseComponent):
    """Base of the components; each stands for one stage.

    Args:
        examples: Examples, with `train` and `eval` splits.
        schema: Schema channel: names and shapes of the features.
        transform_graph: TransformGraph channel, where Transform made the examples: the
            SavedModel then takes them as they were before.
        dataset: further options of `tfcompress.DatasetSpec`, such as `features`,
            `class_names` and `pixel_range`.
        seed: of the recipe: the same gives what the local runner makes.
        **channels_and_options: Model channels, and the fields of the stage.

    Raises:
        TfcompressError: an option that the stage does not have, or out of range.
    """

    STAGE: type[Stage]
    SPEC_CLASS: type[ComponentSpec]
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(StageExecutor)

    def __init__(
        self,
        examples: types.BaseChannel,
        *,
        dataset: Mapping[str, Any] | None = None,
        seed: int = 0,
        **channels_and_options: Any,
    ) -> None:
        name = self.STAGE.name
        channels = {
            key: channels_and_options.pop(key)
            for key in (*_INPUTS[name], *ABOUT_EXAMPLES)
            if channels_and_options.get(key) is not None
        }
        stage = parse_stage(self.STAGE, channels_and_options)
        spec = self.SPEC_CLASS(
            examples=examples,
            **channels,
            **as_json(stage),
            stage=name,
            dataset=json.dumps(dict(dataset or {}), sort_keys=True),
            seed=seed,
            # TFX does not see a new version of the code: this makes it run again.
            tfcompress=__version__,
            **{_OUTPUTS[name]: types.Channel(type=standard_artifacts.Model)},
        )
        super().__init__(spec=spec)


def _component(name: str) -> type[StageComponent]:
    stage = STAGES[name]
    return type(
        stage.__name__,
        (StageComponent,),
        {
            "STAGE": stage,
            "SPEC_CLASS": _spec_class(stage),
            "__doc__": stage.__doc__,
            "__module__": __name__,
        },
    )


Distill = _component("distill")
Factorize = _component("factorize")
FineTune = _component("fine_tune")
Compress = _component("compress")
Quantize = _component("quantize")
ExportTFLite = _component("export_tflite")
