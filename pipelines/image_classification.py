"""From tf.Examples to a pushed `.tflite` file, as a TFX pipeline made of a recipe.

    ExampleGen -> teacher -> Distill -> Compress -> ExportTFLite -> EvaluateTFLite
                                           |                            |
                                       Evaluator                      Pusher

The recipe is the one that `tfcompress run` takes; `tfx_local_runner.py` and
`kubeflow_runner.py` run the pipeline. Both ways give the same weights for one seed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from tensorflow_model_analysis.proto import config_pb2
from tfx import v1 as tfx
from tfx.dsl.io import fileio

from tfcompress import tfx as components
from tfcompress.errors import RecipeError
from tfcompress.recipe import Recipe
from tfcompress.stages import Stage
from tfcompress.tfx.steps import plain

# Stages that make a Keras model: component, and the name of what it gives.
_MODELS = {
    "distill": (components.Distill, "student_model"),
    "factorize": (components.Factorize, "compressed_model"),
    "compress": (components.Compress, "compressed_model"),
    "fine_tune": (components.FineTune, "tuned_model"),
}
_SPLITS = (("train", "train"), ("validation", "validation"), ("eval", "test"))


def create_pipeline(
    recipe: Recipe,
    *,
    root: str,
    serving: str,
    metadata: Any = None,
    teacher_uri: str | None = None,
    label_key: str = "label",
    beam_pipeline_args: Sequence[str] = (),
) -> tfx.dsl.Pipeline:
    """The pipeline of a recipe.

    Args:
        recipe: its data set must be `examples`.
        root: where artefacts go.
        serving: where Pusher puts each blessed file, in a folder for each.
        metadata: connection of ML Metadata; None for runners that bring their own.
        teacher_uri: a Model artefact with `Format-Keras/model.keras`, to import instead
            of training a teacher.
        label_key: the label's feature, for Evaluator.
        beam_pipeline_args: passed on to Beam: runner, workers, project.

    Raises:
        RecipeError: other data, or a recipe without a `.tflite` file at its end.
    """
    if recipe.dataset.examples is None:
        raise RecipeError(
            "A TFX pipeline reads tf.Examples: say dataset: {examples: DIR}."
        )
    stages = {stage.name: stage for stage in recipe.stages}
    if not {"export_tflite", "quantize"} & set(stages):
        raise RecipeError(
            "A pipeline that pushes a .tflite file needs the stage export_tflite or "
            "quantize."
        )
    builder = _Builder(recipe, teacher_uri)
    for stage in recipe.stages:
        builder.add(stage)
    builder.judge(stages.get("evaluate"), serving=serving, label_key=label_key)
    return tfx.dsl.Pipeline(
        pipeline_name=recipe.name,
        pipeline_root=root,
        components=builder.nodes,
        enable_cache=True,
        metadata_connection_config=metadata,
        beam_pipeline_args=list(beam_pipeline_args),
    )


class _Builder:
    """Adds the components of one stage after the other."""

    def __init__(self, recipe: Recipe, teacher_uri: str | None) -> None:
        self.recipe = recipe
        # What is left of the data set, once the component has the examples.
        known = dataclasses.asdict(recipe.dataset)
        default = dataclasses.asdict(type(recipe.dataset)(name="x"))
        self.dataset = {
            key: plain(value)
            for key, value in known.items()
            if key != "examples" and value != default[key]
        }
        self.nodes: list[Any] = [_example_gen(recipe.dataset.examples)]
        self.examples = self.nodes[0].outputs["examples"]
        self.teacher: Any = None
        self.model: Any = None
        self.files: dict[str, Any] = {}
        if teacher_uri is not None:
            node = tfx.dsl.Importer(
                source_uri=teacher_uri, artifact_type=tfx.types.standard_artifacts.Model
            ).with_id("ImportTeacher")
            self._keep(node, "result")
            self.teacher = self.model

    def _keep(self, node: Any, output: str) -> None:
        self.nodes.append(node)
        self.model = node.outputs[output]

    def add(self, stage: Stage) -> None:
        """The component of a stage; those of files are judged later."""
        common = {"dataset": self.dataset, "seed": self.recipe.seed}
        options = plain(stage)
        if stage.name == "teacher":
            if self.teacher is None:
                self._keep(_trainer(self.examples, options, common), "model")
                self.teacher = self.model
        elif stage.name in _MODELS:
            component, output = _MODELS[stage.name]
            channels = {"teacher": self.teacher}
            if stage.name != "distill":
                channels["model"] = self.model
            node = component(self.examples, **channels, **common, **options)
            self._keep(node, output)
        elif stage.name == "quantize":
            node = components.Quantize(
                self.examples, model=self.model, **common, **options
            )
            self._file("quantized", node)
        elif stage.name == "export_tflite":
            for name in stage.quantization:
                one = options | {"quantization": [name]}
                node = components.ExportTFLite(
                    self.examples, model=self.model, **common, **one
                ).with_id(f"ExportTFLite_{name}")
                self._file(name, node)

    def _file(self, name: str, node: Any) -> None:
        self.nodes.append(node)
        self.files[name] = node.outputs["tflite_model"]

    def judge(self, stage: Any, *, serving: str, label_key: str) -> None:
        """Evaluators and Pushers of all files."""
        thresholds = {} if stage is None else stage.thresholds.limits()
        runs = 0 if stage is None else stage.latency_runs
        for name, file in self.files.items():
            evaluation = components.EvaluateTFLite(
                self.examples,
                file,
                self.teacher,
                thresholds=thresholds,
                dataset=self.dataset,
                latency_runs=runs,
            ).with_id(f"EvaluateTFLite_{name}")
            self.nodes += [
                evaluation,
                tfx.components.Pusher(
                    model=file,
                    model_blessing=evaluation.outputs["blessing"],
                    push_destination=tfx.proto.PushDestination(
                        filesystem=tfx.proto.PushDestination.Filesystem(
                            base_directory=os.path.join(serving, name)
                        )
                    ),
                ).with_id(f"Pusher_{name}"),
            ]
        self.nodes.append(
            tfx.components.Evaluator(
                examples=self.examples,
                model=self.model,
                baseline_model=self.teacher,
                eval_config=_eval_config(label_key),
            )
        )


def _example_gen(folder: str) -> Any:
    split = tfx.proto.Input.Split
    named = [
        split(name=name, pattern=f"{place}/*")
        for name, place in _SPLITS
        if fileio.isdir(os.path.join(folder, place))
    ]
    return tfx.components.ImportExampleGen(
        input_base=folder, input_config=tfx.proto.Input(splits=named)
    )


def _trainer(examples: Any, options: dict[str, Any], common: dict[str, Any]) -> Any:
    return tfx.components.Trainer(
        run_fn="tfcompress.tfx.trainer.run_fn",
        examples=examples,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={"options": options, **common},
    ).with_id("Teacher")


def _eval_config(label_key: str) -> Any:
    """Accuracy by TFMA, of the compressed model beside its teacher."""
    model = {
        "label_key": label_key,
        "signature_name": "serving_default",
        "model_type": "tf_generic",
    }
    metrics = [
        config_pb2.MetricConfig(class_name=name)
        for name in ("ExampleCount", "SparseCategoricalAccuracy")
    ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(name="candidate", **model),
            config_pb2.ModelSpec(name="baseline", is_baseline=True, **model),
        ],
        slicing_specs=[config_pb2.SlicingSpec()],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
    )
