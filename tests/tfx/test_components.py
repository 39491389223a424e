"""The components one by one: their parameters, and one clear message a mistake."""

import json

import numpy as np
import pytest
from tfx import types
from tfx import v1 as tfx
from tfx.types import standard_artifacts

from tfcompress import __version__
from tfcompress.data import load_dataset, write_examples
from tfcompress.errors import TfcompressError
from tfcompress.models import vgg
from tfcompress.tfx import (
    Compress,
    Distill,
    EvaluateTFLite,
    ExportTFLite,
    Factorize,
    FineTune,
    Quantize,
    run_fn,
    save_model,
)
from tfcompress.tfx.artifacts import KERAS_FILE, TFLITE_FILE
from tfcompress.tfx.steps import dataset_spec, example_features, run_stage

MODEL = standard_artifacts.Model
COMPONENTS = {
    Distill: ({"teacher"}, "student_model", {"steps": 5, "student": {"depth": 8}}),
    Factorize: ({"teacher", "model"}, "compressed_model", {"target": {"macs": 0.5}}),
    FineTune: ({"teacher", "model"}, "tuned_model", {"steps": 5}),
    Compress: ({"teacher", "model"}, "compressed_model", {"rounds": 2}),
    Quantize: ({"model"}, "tflite_model", {"calibration": 32}),
    ExportTFLite: ({"model"}, "tflite_model", {"quantization": ["int8"]}),
}


def channel(kind=MODEL):
    return types.Channel(type=kind)


def examples_channel():
    return channel(standard_artifacts.Examples)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """An Examples artefact's folder, as ImportExampleGen leaves it."""
    folder = tmp_path_factory.mktemp("data") / "examples"
    write_examples(load_dataset("digits"), folder)
    for split, name in (("train", "train"), ("eval", "test"), ("validation",) * 2):
        (folder / name).rename(folder / f"Split-{split}")
    return folder


@pytest.fixture(scope="module")
def model(examples, tmp_path_factory):
    """A Model artefact's folder."""
    folder = tmp_path_factory.mktemp("model")
    features = example_features(dataset_spec(str(examples), {}))
    # Few layers: TensorFlow builds graphs for longer than it runs them.
    small = vgg((8, 8, 1), 10, blocks=1, width=8, hidden=16)
    save_model(small, str(folder), features=features)
    return folder


def artifact(kind, path):
    one = kind()
    one.uri = str(path)
    return one


def execute(component, inputs, output, path):
    """Runs a component's executor as TFX does; gives the output artefact."""
    made = artifact(component.spec.outputs[output].type, path)
    properties = {
        key: value
        for key, value in component.exec_properties.items()
        if value is not None
    }
    executor = component.executor_spec.executor_class()
    executor.Do(
        {key: [artifact(kind, where)] for key, (kind, where) in inputs.items()},
        {output: [made]},
        properties,
    )
    return made


@pytest.mark.parametrize("component", COMPONENTS)
def test_channels_and_parameters(component):
    models, output, options = COMPONENTS[component]
    node = component(
        examples_channel(), seed=3, **{name: channel() for name in models}, **options
    )
    assert set(node.inputs) == {"examples", *models}
    assert node.outputs[output].type is MODEL
    properties = node.exec_properties
    # A new version of the package is a new component: what is cached is not taken.
    assert properties["tfcompress"] == __version__ and properties["seed"] == 3
    for key, value in options.items():
        found = json.loads(properties[key])
        if isinstance(value, dict):
            assert found.items() >= value.items()
        else:
            assert found == value


def test_a_mistake_in_an_option_is_found_before_anything_runs():
    with pytest.raises(TfcompressError, match="compress.round'.*'rounds'"):
        Compress(examples_channel(), teacher=channel(), round=3)
    with pytest.raises(TfcompressError, match="quantization"):
        ExportTFLite(examples_channel(), model=channel(), quantization=["int3"])
    with pytest.raises(TfcompressError, match="threshold 'min_acuracy'.*min_accuracy"):
        EvaluateTFLite(examples_channel(), channel(), thresholds={"min_acuracy": 0.5})


def test_a_component_executes(examples, model, tmp_path):
    node = ExportTFLite(examples_channel(), model=channel(), quantization=["float32"])
    inputs = {"examples": (standard_artifacts.Examples, examples)}
    made = execute(node, inputs | {"model": (MODEL, model)}, "tflite_model", tmp_path)
    assert (tmp_path / TFLITE_FILE).is_file()
    assert made.get_string_custom_property("tfcompress") == __version__
    node = EvaluateTFLite(
        examples_channel(),
        channel(),
        channel(),
        thresholds={"max_drop": 0.02},
        latency_runs=0,
    )
    inputs |= {"model": (MODEL, tmp_path), "baseline_model": (MODEL, model)}
    blessing = execute(node, inputs, "blessing", tmp_path / "blessing")
    assert blessing.get_int_custom_property("blessed") == 1
    # The file of a model agrees with it.
    assert blessing.get_float_custom_property("agreement") > 0.99
    assert (tmp_path / "blessing" / "BLESSED").exists()


def test_two_files_need_two_components(examples, model, tmp_path):
    node = ExportTFLite(
        examples_channel(), model=channel(), quantization=["float32", "float16"]
    )
    inputs = {
        "examples": (standard_artifacts.Examples, examples),
        "model": (MODEL, model),
    }
    with pytest.raises(TfcompressError, match="makes one model; name one quant"):
        execute(node, inputs, "tflite_model", tmp_path)


def stage(examples, model, tmp_path, **options):
    return run_stage(
        "export_tflite",
        {"quantization": ["float32"]},
        examples=str(examples),
        models={"compressed": str(model)},
        output=str(tmp_path / "output"),
        dataset=options.pop("dataset", {}),
        seed=0,
        folder=tmp_path,
        **options,
    )


def test_missing_examples(model, tmp_path):
    with pytest.raises(TfcompressError, match="'.*nowhere' does not exist"):
        stage(tmp_path / "nowhere", model, tmp_path)
    (tmp_path / "empty" / "Split-train").mkdir(parents=True)
    with pytest.raises(TfcompressError, match="empty.*train"):
        stage(tmp_path / "empty", model, tmp_path)


def test_a_label_out_of_range(examples, model, tmp_path):
    few = {"class_names": ["zero", "one"]}
    with pytest.raises(TfcompressError, match="labels from 0 to 9, .*2 classes"):
        stage(examples, model, tmp_path, dataset=few)


def test_a_model_artefact_without_keras_file(examples, tmp_path):
    (tmp_path / "m" / "Format-Serving").mkdir(parents=True)
    with pytest.raises(TfcompressError, match=f"no {KERAS_FILE}; train it with"):
        stage(examples, tmp_path / "m", tmp_path)


def test_a_schema_without_the_image(examples, model, tmp_path):
    schema = tmp_path / "schema.pbtxt"
    schema.write_text('feature { name: "label" type: INT }')
    with pytest.raises(TfcompressError, match="no feature 'image' for the image"):
        stage(examples, model, tmp_path, schema=str(schema))


def test_a_file_where_a_model_was_given(examples, model, tmp_path):
    node = EvaluateTFLite(examples_channel(), channel(), latency_runs=0)
    inputs = {
        "examples": (standard_artifacts.Examples, examples),
        "model": (MODEL, model),
    }
    with pytest.raises(TfcompressError, match="take the output of ExportTFLite"):
        execute(node, inputs, "blessing", tmp_path)


def test_saved_model_signatures(examples, model):
    """Examples in at `serving_default`, images at `predict`: the same numbers out."""
    import keras
    import tensorflow as tf

    from tfcompress.data.examples import read_records, split_files

    loaded = tf.saved_model.load(str(model / "Format-Serving"))
    files = split_files(str(examples))["test"]
    records = list(read_records(files).take(8).as_numpy_iterator())
    (served,) = loaded.signatures["serving_default"](tf.constant(records)).values()
    images = load_dataset({"examples": str(examples)}).arrays("test")[0][:8]
    (predicted,) = loaded.signatures["predict"](image=tf.constant(images)).values()
    np.testing.assert_allclose(served, predicted, atol=1e-6)
    whole = keras.models.load_model(model / KERAS_FILE)
    np.testing.assert_allclose(served, whole(images, training=False), atol=1e-5)


def test_trainers_custom_config_has_known_keys(examples):
    arguments = tfx.components.FnArgs(
        train_files=[str(examples / "Split-train" / "*")],
        custom_config={"option": {"steps": 1}},
    )
    with pytest.raises(TfcompressError, match="custom_config takes .*options"):
        run_fn(arguments)
