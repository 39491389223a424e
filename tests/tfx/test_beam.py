"""A `.tflite` file on tf.Examples by Beam: what `evaluate_tflite` finds, exactly."""

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from tfcompress.data import DatasetError, load_dataset, write_examples
from tfcompress.deploy import TFLiteModel, evaluate_tflite, export_tflite
from tfcompress.errors import ModelFileError
from tfcompress.models import vgg
from tfcompress.tfx.beam import EvaluateTFLiteFile, PredictTFLiteFile, features_of
from tfcompress.tfx.inference import Engine

# What DirectRunner comes to in the end. It first tries to fetch another runner, and
# that one knows nothing of threads and processes.
RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
SCRIPT = Path(__file__).parents[2] / "pipelines" / "bulk_evaluate.py"


def network(size=8):
    """Few layers: TensorFlow builds graphs for longer than it runs them."""
    return vgg((size, size, 1), 10, blocks=1, width=4, hidden=16)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with a file, and the digits as numbers and as PNG."""
    folder = tmp_path_factory.mktemp("bulk")
    data = load_dataset("digits")
    write_examples(data, folder / "raw", shards=2)
    write_examples(data, folder / "png", shards=2, encoded=True)
    export_tflite(network(), folder / "m.tflite")
    return folder


def pattern(digits, kind="raw"):
    return str(digits / kind / "test" / "*")


def run(records, transform, folder, *options, runner=RUNNER):
    """What a transform makes of records (or of files of them), through JSON."""
    target = folder / "result"
    source = (
        beam.io.ReadFromTFRecord(records)
        if isinstance(records, str)
        else beam.Create(records)
    )
    with beam.Pipeline(options=PipelineOptions([runner, *options])) as pipeline:
        _ = (
            pipeline
            | source
            | transform
            | beam.Map(json.dumps)
            | beam.io.WriteToText(str(target), num_shards=1, shard_name_template="")
        )
    return [json.loads(line) for line in target.read_text().splitlines()]


def transform(digits, kind="raw", **options):
    return EvaluateTFLiteFile(
        str(digits / "m.tflite"), features=features_of(pattern(digits, kind)), **options
    )


@pytest.mark.parametrize(
    ("kind", "runner"),
    [("raw", RUNNER), ("png", "--runner=DirectRunner")],
    ids=["raw", "png"],
)
def test_the_figures_are_those_of_evaluate_tflite(digits, tmp_path, kind, runner):
    evaluate = transform(digits, kind)
    (found,) = run(pattern(digits, kind), evaluate, tmp_path, runner=runner)
    data = load_dataset({"examples": str(digits / kind)})
    direct = evaluate_tflite(digits / "m.tflite", data.batches("test", 256))
    assert found["accuracy"] == direct["accuracy"]
    assert found["samples"] == direct["samples"] == 359
    assert found["bad"] == {}
    images, labels = data.arrays("test")
    predicted = TFLiteModel(digits / "m.tflite").predict(images).argmax(axis=-1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    assert found["confusion"] == confusion.tolist()
    assert [row["samples"] for row in found["classes"]] == np.bincount(labels).tolist()


@pytest.mark.parametrize(
    "mode",
    ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.slow)],
)
def test_two_workers_find_the_same(digits, tmp_path, mode):
    """Threads share an interpreter; processes are sent everything, as on a cluster."""
    options = f"--direct_running_mode={mode}", "--direct_num_workers=2"
    small = transform(digits, batch_size=32)
    (found,) = run(pattern(digits), small, tmp_path, *options)
    assert [found] == run(pattern(digits), transform(digits), tmp_path)


def test_what_workers_are_sent_is_plain_data(digits):
    options = pickle.loads(pickle.dumps(transform(digits)._options))
    assert options == transform(digits)._options
    assert str(digits) in options.file


def test_a_prediction_for_each_example(digits, tmp_path):
    predict = PredictTFLiteFile(
        str(digits / "m.tflite"), features=features_of(pattern(digits)), batch_size=100
    )
    rows = sorted(run(pattern(digits), predict, tmp_path))
    images, labels = load_dataset("digits").arrays("test")
    scores = TFLiteModel(digits / "m.tflite").predict(images)
    assert [row[0] for row in rows] == list(range(359))
    assert [row[1] for row in rows] == labels.tolist()
    assert [row[2] for row in rows] == scores.argmax(axis=-1).tolist()
    np.testing.assert_allclose([row[3] for row in rows], scores, atol=1e-5)


def example(**features):
    kinds = {int: "int64_list", float: "float_list", bytes: "bytes_list"}
    made = tf.train.Example()
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        getattr(made.features.feature[name], kinds[type(values[0])]).value[:] = values
    return made.SerializeToString()


IMAGE = [0.5] * 64
BAD_LABELS = {
    "have no feature 'label' for the label": example(image=IMAGE),
    "have a label 'label' out of range (0 to 9)": example(image=IMAGE, label=10),
    "have a label 'label' that is not one whole number": example(
        image=IMAGE, label=b"one"
    ),
}
BAD_IMAGES = {
    "have no feature 'image' for the image": example(label=1),
    "have an image 'image' of another kind or size than the first": example(
        image=[0.5] * 63, label=1
    ),
    "are no tf.Examples": b"nonsense",
}
GOOD = example(image=IMAGE, label=1)


def test_bad_examples_are_counted_by_reason(digits, tmp_path):
    bad = BAD_LABELS | BAD_IMAGES
    records = [GOOD, *bad.values(), GOOD, example(image=IMAGE, label=-1)]
    (found,) = run(records, transform(digits, bad="count"), tmp_path)
    assert found["samples"] == 2
    expected = dict.fromkeys(bad, 1)
    expected["have a label 'label' out of range (0 to 9)"] = 2
    assert found["bad"] == expected
    # Predictions need no label.
    features = features_of(pattern(digits))
    predict = PredictTFLiteFile(
        str(digits / "m.tflite"), features=features, bad="count"
    )
    labels = [row[1] for row in run(records, predict, tmp_path)]
    assert sorted(labels, key=str) == [1, 1, 10, None, None, None]


@pytest.mark.parametrize("reason", [*BAD_LABELS, *BAD_IMAGES])
def test_a_bad_example_is_raised_by_the_name_of_its_feature(digits, reason):
    bad = (BAD_LABELS | BAD_IMAGES)[reason]
    found = Engine(str(digits / "m.tflite")).run(
        [GOOD, bad],
        features_of(pattern(digits)),
        pixel_range=(0.0, 1.0),
        image_size=None,
        labelled=True,
    )
    assert found.bad == {reason: 1} and found.labels.tolist() == [1]


def test_a_bad_example_stops_the_pipeline(digits, tmp_path):
    with pytest.raises(Exception, match="have no feature 'image' for the image"):
        run([GOOD, example(label=1)], transform(digits), tmp_path)


def test_no_examples(digits, tmp_path):
    (found,) = run([], transform(digits), tmp_path)
    assert found["samples"] == 0 and found["accuracy"] is None


def test_what_does_not_fit_is_said_at_once(digits, tmp_path):
    with pytest.raises(DatasetError, match="no files"):
        features_of(str(tmp_path / "*"))
    (tmp_path / "text").write_text("no records " * 9)
    with pytest.raises(DatasetError, match="TFRecord"):
        features_of(str(tmp_path / "text"))
    with pytest.raises(DatasetError, match="no feature 'picture'"):
        features_of(pattern(digits), {"image": "picture"})
    with pytest.raises(DatasetError, match="bad is one of"):
        transform(digits, bad="ignore")
    with pytest.raises(DatasetError, match="must be positive"):
        transform(digits, batch_size=0)
    with pytest.raises(ModelFileError, match="no .tflite file"):
        Engine(str(tmp_path / "none.tflite"))
    with pytest.raises(ModelFileError, match=r"not a TFLite model.*text"):
        Engine(str(tmp_path / "text"))


@pytest.fixture
def script(monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("bulk_evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bulk_evaluate", *map(str, arguments)])
        code = 0
        try:
            module.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_the_script_writes_the_result(digits, tmp_path, script):
    target = tmp_path / "out.json"
    call = (digits / "m.tflite", pattern(digits), "-o", target)
    code, out, err = script(*call, "--direct_num_workers=1")
    assert code == 0, err
    found = json.loads(target.read_text())
    assert f"accuracy: {found['accuracy']:.4f}" in out and "samples: 359" in out
    assert list(tmp_path.iterdir()) == [target]


def test_mistakes_in_calling_the_script(digits, tmp_path, script):
    records = tmp_path / "records"
    with tf.io.TFRecordWriter(str(records)) as writer:
        for record in (GOOD, GOOD, example(image=IMAGE, label=10)):
            writer.write(record)
    target = tmp_path / "out.json"
    model, large = digits / "m.tflite", tmp_path / "large.tflite"
    export_tflite(network(9), large)
    for arguments, words in {
        (tmp_path / "none", pattern(digits)): "no .tflite file",
        (model, tmp_path / "no*"): "no files",
        (large, records): "must have shape (None, 9, 9, 1)",
        (model, records): "1 have a label 'label' out of range (0 to 9)",
        (model, records, "--features", "{"): "no JSON",
        (model, records, "--features", '{"image": "x"}'): "no feature 'x'",
        (model, records, "--pixel-range", "1"): "two numbers",
    }.items():
        code, out, err = script(*arguments, "-o", target)
        last = err.splitlines()[-1]
        assert (code, out) == (2, ""), err
        assert last.startswith("Error: ") and words in last, err
        assert not target.exists()
    code, out, _ = script(model, records, "-o", target, "--skip-bad")
    assert code == 0 and "left out: 1 examples that have a label" in out
    assert json.loads(target.read_text())["samples"] == 2
