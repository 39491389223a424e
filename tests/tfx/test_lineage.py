"""Lineage from ML Metadata: of a store as TFX writes it, and of a real run."""

import json
import shutil
import sqlite3
import zipfile

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from tfcompress.files import content_hash, file_hash
from tfcompress.lineage import LineageError
from tfcompress.tfx.artifacts import KERAS_FILE
from tfcompress.tfx.lineage import lineage_of_metadata

LOW = {
    "module": "tfcompress.layers.dense",
    "class_name": "FactorizedDense",
    "config": {"name": "low", "units": 8, "ranks": [3]},
}


def keras_file(path, layers=()):
    path.parent.mkdir(parents=True)
    config = {"class_name": "Functional", "config": {"layers": list(layers)}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", path.parent.parent.name)
    return path


class Store:
    """Writes a store the way that TFX does."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "metadata.sqlite"
        config = pb.ConnectionConfig()
        config.sqlite.filename_uri = str(self.file)
        config.sqlite.connection_mode = (
            pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        self.store = metadata_store.MetadataStore(config)

    def artefact(self, kind, name, **properties):
        number = self.store.put_artifact_type(pb.ArtifactType(name=kind))
        made = pb.Artifact(type_id=number, uri=str(self.folder / name))
        put(made, properties)
        (made.id,) = self.store.put_artifacts([made])
        return made

    def execution(self, kind, node, reads, gives, state="COMPLETE", **properties):
        number = self.store.put_execution_type(pb.ExecutionType(name=kind))
        execution = pb.Execution(
            type_id=number, last_known_state=pb.Execution.State.Value(state)
        )
        put(execution, properties)
        (execution.id,) = self.store.put_executions([execution])
        for kind, events in ((pb.Event.INPUT, reads), (pb.Event.OUTPUT, gives)):
            for key, artefact in events.items():
                event = pb.Event(
                    type=kind, artifact_id=artefact.id, execution_id=execution.id
                )
                event.path.steps.add().key = key
                self.store.put_events([event])
        context_type = self.store.put_context_type(pb.ContextType(name="node"))
        context = pb.Context(type_id=context_type, name=f"pipe.{node}")
        try:
            (context.id,) = self.store.put_contexts([context])
        except Exception:  # The context of a node that has run before.
            context = self.store.get_context_by_type_and_name("node", context.name)
        self.store.put_attributions_and_associations(
            [], [pb.Association(execution_id=execution.id, context_id=context.id)]
        )
        return execution.id


def put(node, properties):
    for key, value in properties.items():
        kind = {int: "int_value", float: "double_value", str: "string_value"}
        setattr(node.custom_properties[key], kind[type(value)], value)


@pytest.fixture
def made(tmp_path):
    """ExampleGen -> Trainer -> Compress -> ExportTFLite -> EvaluateTFLite, as files."""
    store = Store(tmp_path)
    store.teacher = keras_file(tmp_path / "teacher/Format-Keras/model.keras")
    store.low = keras_file(tmp_path / "low/Format-Keras/model.keras", [LOW])
    store.tflite = tmp_path / "file/Format-Serving/tflite"
    store.tflite.parent.mkdir(parents=True)
    store.tflite.write_bytes(b"\x1c\0\0\0TFL3 and so on")
    ours = {"data_fingerprint": "f" * 64, "tfcompress": "0.1.0"}
    common = {"tfcompress": "0.1.0", "dataset": '{"name": "digits"}', "seed": 5}

    examples = store.artefact("Examples", "examples", span=0)
    store.execution(
        "tfx.components.example_gen.import_example_gen.component.ImportExampleGen",
        "ImportExampleGen",
        {},
        {"examples": examples},
        input_base="gs://bucket/digits",
    )
    teacher = store.artefact("Model", "teacher", tfx_version="1.21.0")
    store.execution(
        "tfx.components.trainer.component.Trainer",
        "Teacher",
        {"examples": examples},
        {"model": teacher},
        run_fn="tfcompress.tfx.trainer.run_fn",
        custom_config=json.dumps({"options": {"steps": 7}, "seed": 5}),
    )
    low = store.artefact(
        "Model",
        "low",
        content_sha256=content_hash(store.low),
        accuracy=0.9,
        macs=1000,
        target_met=1,
        **ours,
    )
    store.execution(
        "tfcompress.tfx.component.Compress",
        "Compress",
        {"examples": examples, "teacher": teacher},
        {"compressed_model": low},
        stage="compress",
        steps="16",
        target='{"macs": 0.7, "params": null}',
        **common,
    )
    file = store.artefact(
        "Model", "file", content_sha256=file_hash(store.tflite), **ours
    )
    # A second run took the same from the cache.
    for state in ("COMPLETE", "CACHED"):
        store.execution(
            "tfcompress.tfx.component.ExportTFLite",
            "ExportTFLite_int8",
            {"examples": examples, "model": low},
            {"tflite_model": file},
            state=state,
            stage="export_tflite",
            quantization='["int8"]',
            calibration="256",
            **common,
        )
    store.artefact(
        "ModelBlessing",
        "blessing",
        content_sha256=file_hash(store.tflite),
        accuracy=0.88,
        blessed=0,
        failures="accuracy is too low",
    )
    return store


def test_a_pushed_copy_is_told_from_data_to_file(made, tmp_path):
    pushed = tmp_path / "serving" / "1795802137"
    pushed.mkdir(parents=True)
    shutil.copy(made.tflite, pushed / "tflite")
    before = file_hash(made.file)
    found = lineage_of_metadata(pushed, made.file)
    assert file_hash(made.file) == before
    assert [(step.name, step.reads) for step in found.steps] == [
        ("Teacher (execution 2)", ("data",)),
        ("Compress (execution 3)", ("Teacher (execution 2)",)),
        ("ExportTFLite_int8 (execution 4)", ("Compress (execution 3)",)),
    ]
    teacher, compress, export = found.steps
    assert found.data["name"] == "digits"
    assert found.data["fingerprint"] == "f" * 64
    assert found.data["input_base"] == "gs://bucket/digits"
    assert teacher.stage == "teacher" and teacher.options == {"steps": 7}
    assert teacher.sha256 == content_hash(made.teacher)
    assert "hold no hash" in teacher.notes[0]
    assert compress.options == {"steps": 16, "target.macs": 0.7}
    assert compress.figures == {"accuracy": 0.9, "macs": 1000, "target_met": True}
    assert compress.versions["tfcompress"] == "0.1.0" and compress.seed == 5
    assert [(one.name, one.ranks) for one in found.layers] == [("low", (3,))]
    assert found.table()[0] == ["layer", "type", "ranks"]
    assert export.options == {"quantization": ["int8"]}
    assert found.measured == {
        "accuracy": 0.88,
        "blessed": False,
        "not_blessed_because": "accuracy is too low",
    }


def test_an_artefact_is_a_model_too(made, tmp_path):
    found = lineage_of_metadata(tmp_path / "low", made.file)
    assert found.steps[-1].stage == "compress"
    found = lineage_of_metadata(tmp_path / "teacher", made.file)
    assert [step.stage for step in found.steps] == ["teacher"]


def test_ranks_where_only_a_copy_is_left(made, tmp_path):
    copy = tmp_path / "copy.keras"
    shutil.copy(made.low, copy)
    shutil.rmtree(tmp_path / "low")
    assert [one.name for one in lineage_of_metadata(copy, made.file).layers] == ["low"]


def test_a_model_changed_in_its_artefact(made, tmp_path):
    with zipfile.ZipFile(made.low, "a") as archive:
        archive.writestr("more", "of it")
    with pytest.raises(LineageError, match="was changed after the run"):
        lineage_of_metadata(tmp_path / "low", made.file)
    copy = tmp_path / "copy.keras"
    shutil.copy(made.low, copy)
    with pytest.raises(LineageError, match="is not a model that the run") as raised:
        lineage_of_metadata(copy, made.file)
    assert content_hash(copy) in str(raised.value)


def test_an_imported_teacher_comes_from_where_it_was(tmp_path):
    store = Store(tmp_path)
    file = keras_file(tmp_path / "mine/Format-Keras/model.keras")
    model = store.artefact("Model", "mine")
    store.execution(
        "tfx.dsl.components.common.importer.Importer",
        "ImportTeacher",
        {},
        {"result": model},
        source_uri="gs://bucket/mine",
    )
    (step,) = lineage_of_metadata(file, store.file).steps
    assert step.reads == () and step.options == {"source_uri": "gs://bucket/mine"}


def test_files_that_are_no_metadata(made, tmp_path):
    with pytest.raises(LineageError, match="cannot be read"):
        lineage_of_metadata(made.low, tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(LineageError, match="no SQLite file"):
        lineage_of_metadata(made.low, made.low)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (number INTEGER)")
    connection.commit()
    connection.close()
    before = file_hash(other)
    with pytest.raises(LineageError, match="no ML Metadata"):
        lineage_of_metadata(made.low, other)
    assert file_hash(other) == before


def test_a_real_run(whole):
    """Every file that was pushed, and the models that Keras can load."""
    metadata = whole.folder / "metadata.sqlite"
    pushed = sorted((whole.folder / "serving").glob("*/*"))
    assert pushed
    low = whole.model_of("Compress") / KERAS_FILE
    chain = ["teacher", "distill", "compress"]
    for model in (low, *pushed):
        found = lineage_of_metadata(model, metadata)
        stages = [step.stage for step in found.steps]
        assert stages[:3] == chain
        assert stages[3:] in ([], ["export_tflite"], ["quantize"])
        assert found.data["name"] == "digits" and len(found.data["fingerprint"]) == 64
        assert found.data["input_base"] == str(whole.examples)
        teacher, distill, compress = found.steps[:3]
        assert teacher.options["steps"] == 120 and teacher.seed == 5
        assert distill.options["views.crop"] == "mild"
        assert compress.options["target.macs"] == 0.7
        assert compress.sha256 == content_hash(low)
        assert compress.figures["macs"] <= 0.7 * distill.figures["macs"]
        assert found.layers
        if stages[3:]:
            assert 0 < found.measured["accuracy"] <= 1 and found.measured["blessed"]
