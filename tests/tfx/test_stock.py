"""Beside TFX's own components: CSV files, schemas, Transform graphs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pipeline_run import NETWORK, states
from tfx import v1 as tfx

from tfcompress.data import load_dataset
from tfcompress.tfx import Compress, EvaluateTFLite, ExportTFLite
from tfcompress.tfx.artifacts import KERAS_FILE

TEACHER = {"network": NETWORK, "steps": 120}
LIMITS = {"min_accuracy": 0.3}


def run(folder, components):
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config
    metadata = connection(str(folder / "metadata.sqlite"))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="stock",
            pipeline_root=str(folder / "artefacts"),
            components=components,
            metadata_connection_config=metadata,
            beam_pipeline_args=["--direct_num_workers=1"],
        )
    )
    assert {ran[-1] for ran in states(metadata).values()} == {"COMPLETE"}


def splits_in(place):
    split = tfx.proto.Input.Split
    return tfx.proto.Input(
        splits=[split(name=name, pattern=f"{name}/*") for name in ("train", "eval")]
    ), str(place)


def trainer(examples, **options):
    dataset = options.pop("dataset", {})
    return tfx.components.Trainer(
        run_fn="tfcompress.tfx.trainer.run_fn",
        examples=examples,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={"options": TEACHER, "dataset": dataset},
        **options,
    )


def blessing(folder):
    (found,) = folder.glob("artefacts/EvaluateTFLite/blessing/*")
    return found, json.loads((found / "report.json").read_text())["figures"]


def test_a_table_of_numbers(tmp_path):
    """CsvExampleGen makes a feature of each column."""
    data = load_dataset("digits")
    header = ",".join([f"pixel_{i}" for i in range(64)] + ["digit"])
    for name, split in (("train", "train"), ("eval", "test")):
        images, labels = data.arrays(split)
        rows = np.column_stack([images.reshape(-1, 64).round(4), labels])
        (tmp_path / "csv" / name).mkdir(parents=True)
        np.savetxt(
            tmp_path / "csv" / name / "data.csv",
            rows,
            fmt=["%.4f"] * 64 + ["%d"],
            delimiter=",",
            header=header,
            comments="",
        )
    inputs, base = splits_in(tmp_path / "csv")
    gen = tfx.components.CsvExampleGen(input_base=base, input_config=inputs)
    examples = gen.outputs["examples"]
    dataset = {"features": {"image": "pixel_*", "label": "digit"}}
    teacher = trainer(examples, dataset=dataset)
    export = ExportTFLite(
        examples,
        model=teacher.outputs["model"],
        dataset=dataset,
        quantization=["float32"],
    )
    evaluate = EvaluateTFLite(
        examples,
        export.outputs["tflite_model"],
        teacher.outputs["model"],
        dataset=dataset,
        thresholds=LIMITS,
        latency_runs=0,
    )
    run(tmp_path, [gen, teacher, export, evaluate])
    _, figures = blessing(tmp_path)
    assert figures["samples"] == data.sizes["test"]
    assert figures["accuracy"] > 0.3 and figures["agreement"] == 1.0


@pytest.fixture
def raw(tmp_path):
    """Examples that no network takes as they are: bytes as numbers, other names."""
    data = load_dataset("digits")
    for name, split in (("train", "train"), ("eval", "test")):
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data.tfrecord")) as writer:
            for image, label in zip(*data.arrays(split), strict=True):
                numbers = (255 * image).round().astype(int).ravel()
                features = {"pixels": numbers, "digit": [label]}
                example = tf.train.Example(
                    features=tf.train.Features(
                        feature={
                            key: tf.train.Feature(
                                int64_list=tf.train.Int64List(value=value)
                            )
                            for key, value in features.items()
                        }
                    )
                )
                writer.write(example.SerializeToString())
    return tmp_path / "raw"


def test_transform_and_its_schema(raw, tmp_path):
    """Models see what Transform made; their SavedModels take the examples before it."""
    inputs, base = splits_in(raw)
    gen = tfx.components.ImportExampleGen(input_base=base, input_config=inputs)
    statistics = tfx.components.StatisticsGen(examples=gen.outputs["examples"])
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    module = tmp_path / "preprocessing.py"
    shutil.copyfile(Path(__file__).parent / "preprocessing.py", module)
    transform = tfx.components.Transform(
        examples=gen.outputs["examples"],
        schema=schema.outputs["schema"],
        module_file=str(module),
    )
    examples = transform.outputs["transformed_examples"]
    graph = transform.outputs["transform_graph"]
    after = transform.outputs["post_transform_schema"]
    teacher = trainer(examples, transform_graph=graph, schema=after)
    compress = Compress(
        examples,
        teacher=teacher.outputs["model"],
        transform_graph=graph,
        schema=after,
        target={"macs": 0.8},
        max_drop=1.0,
        rounds=1,
        steps=4,
    )
    export = ExportTFLite(
        examples,
        model=compress.outputs["compressed_model"],
        schema=after,
        quantization=["float32"],
    )
    evaluate = EvaluateTFLite(
        examples,
        export.outputs["tflite_model"],
        schema=after,
        thresholds=LIMITS,
        latency_runs=0,
    )
    run(
        tmp_path,
        [gen, statistics, schema, transform, teacher, compress, export, evaluate],
    )
    import keras

    images, _ = load_dataset("digits").arrays("test")
    images = (255 * images).round() / 255
    records = tf.data.TFRecordDataset(str(raw / "eval" / "data.tfrecord"))
    batch = tf.constant(list(records.take(16).as_numpy_iterator()))
    for node, output in (("Trainer", "model"), ("Compress", "compressed_model")):
        (folder,) = (tmp_path / "artefacts" / node / output).glob("*")
        loaded = tf.saved_model.load(str(folder / "Format-Serving"))
        (served,) = loaded.signatures["serving_default"](batch).values()
        model = keras.models.load_model(folder / KERAS_FILE)
        np.testing.assert_allclose(
            served, model(images[:16], training=False), atol=1e-4
        )
