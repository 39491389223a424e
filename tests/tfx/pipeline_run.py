"""A pipeline in a folder of its own, and what its metadata say."""

import sys
from pathlib import Path

import yaml
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx

from tfcompress.data import load_dataset, write_examples
from tfcompress.recipe import load_recipe

PIPELINES = Path(__file__).parents[2] / "pipelines"
sys.path.insert(0, str(PIPELINES))

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 1, "width": 8, "hidden": 16}
# Every stage, as small as it can be.
STAGES = [
    {"teacher": {"network": NETWORK, "steps": 120}},
    {
        "distill": {
            "student": NETWORK,
            "steps": 120,
            "views": {"crop": "mild"},
        }
    },
    {"compress": {"target": {"macs": 0.7}, "max_drop": 1.0, "rounds": 1, "steps": 16}},
    {"quantize": {"epochs": 1, "calibration": 32}},
    {"export_tflite": {"quantization": ["float32", "int8"], "calibration": 32}},
    {"evaluate": {"latency_runs": 5, "warmup": 1, "thresholds": {"min_accuracy": 0.3}}},
]


class Run:
    """A pipeline in a folder of its own."""

    def __init__(self, folder, stages=STAGES, **options):
        self.folder = folder
        self.options = options
        folder.mkdir(parents=True, exist_ok=True)
        self.examples = folder / "examples"
        if not self.examples.exists():
            write_examples(load_dataset("digits"), self.examples, shards=2)
        self.file = folder / "recipe.yaml"
        self.write(stages)

    def write(self, stages):
        dataset = {"name": "digits", "examples": str(self.examples)}
        content = {"name": "small", "dataset": dataset, "seed": 5, "stages": stages}
        self.file.write_text(yaml.safe_dump(content))

    @property
    def recipe(self):
        return load_recipe(self.file)

    @property
    def metadata(self):
        return tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(self.folder / "metadata.sqlite")
        )

    def pipeline(self):
        from image_classification import create_pipeline

        return create_pipeline(
            self.recipe,
            root=str(self.folder / "artefacts"),
            serving=str(self.folder / "serving"),
            metadata=self.metadata,
            beam_pipeline_args=["--direct_num_workers=1"],
            **self.options,
        )

    def run(self):
        tfx.orchestration.LocalDagRunner().run(self.pipeline())
        return self

    def states(self):
        """`{node: [state, ...]}`, in the order of execution."""
        return states(self.metadata)

    def model_of(self, node):
        """Folder of the newest Model artefact that a node made."""
        found = [
            path
            for output in ("*_model", "model")
            for path in (self.folder / "artefacts" / node).glob(f"{output}/*")
        ]
        return max(found, key=lambda path: int(path.name))

    def properties_of(self, uri):
        """Custom properties of an artefact, as plain values."""
        store = metadata_store.MetadataStore(self.metadata)
        (artifact,) = store.get_artifacts_by_uri(str(uri))
        return {
            key: getattr(value, value.WhichOneof("value"))
            for key, value in artifact.custom_properties.items()
        }

    def pushed(self, name):
        """Versions in a serving folder."""
        return sorted((self.folder / "serving" / name).glob("*"))


def states(metadata):
    store = metadata_store.MetadataStore(metadata)
    found = {}
    for context in store.get_contexts_by_type("node"):
        executions = store.get_executions_by_context(context.id)
        found[context.name.partition(".")[2]] = [
            metadata_store_pb2.Execution.State.Name(one.last_known_state)
            for one in sorted(executions, key=lambda one: one.id)
        ]
    return found
