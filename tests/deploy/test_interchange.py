"""SavedModel and ONNX: loaded again without Keras, they compute what the model does."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import randomize

import tfcompress
from tfcompress.cost import layer_specs
from tfcompress.deploy import ExportError, export_onnx, export_saved_model, onnx
from tfcompress.deploy.interface import describe
from tfcompress.deploy.metadata import model_hash
from tfcompress.deploy.parity import check_parity, example_inputs
from tfcompress.models import resnet
from tfcompress.ranks import Budget, Ratio
from tfcompress.surgery import factorize

L = keras.layers


def image_model():
    model = randomize(resnet((8, 8, 3), 5, depth=8, width=16))
    plan = Ratio().select(layer_specs(model), Budget(macs=0.5))
    small = factorize(
        model,
        {row.name: (row.layer_type, row.ranks) for row in plan.rows if row.changed},
    )
    assert any(row.changed for row in plan.rows)
    return small


def named_parts():
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="more-data")
    x = L.Concatenate()([L.Flatten()(L.Conv2D(4, 3)(image)), extra])
    outputs = {"logits": L.Dense(3)(x), "height": L.Dense(1)(x)}
    return randomize(keras.Model({"image": image, "more-data": extra}, outputs))


def free_sizes():
    image = keras.Input((None, None, 3), name="image")
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu")(image))
    return randomize(keras.Model(image, L.Dense(3, name="logits")(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dropout = L.Dropout(0.5)
        self.dense = L.Dense(4)

    def call(self, inputs, training=None):
        return self.dense(self.dropout(inputs, training=training))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 6), "float32"))
    return randomize(model)


BUILDERS = [image_model, named_parts, free_sizes, subclassed]


def run_saved_model(path, feeds):
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(**{key: tf.constant(value) for key, value in feeds.items()})


def run_onnx(path, feeds):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


FORMATS = {
    "saved_model": (export_saved_model, run_saved_model, 1e-5),
    "onnx": (export_onnx, run_onnx, 1e-4),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("build", BUILDERS)
def test_outputs_are_those_of_keras_at_another_batch_size(build, format, tmp_path):
    export, run, tolerance = FORMATS[format]
    model = build()
    before = [np.array(w) for w in model.weights]
    path = export(model, tmp_path / "out" / "model")
    interface = describe(model)
    feeds = {
        name: np.concatenate([value, value[:1]])
        for name, value in example_inputs(interface, seed=7).items()
    }
    found = run(path, feeds)
    wanted = interface.call({key: tf.constant(value) for key, value in feeds.items()})
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, atol=tolerance * scale, rtol=0)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_both_say_what_they_are_of(tmp_path):
    model = image_model()
    given = {"labels": ["a", "b"]}
    folder = tfcompress.export_saved_model(model, tmp_path / "1", metadata=given)
    saved = json.loads((folder / "assets.extra" / "tfcompress.json").read_text())
    file = tfcompress.export_onnx(model, tmp_path / "m.onnx", metadata=given)
    import onnx as onnx_package

    props = onnx_package.load(str(file)).metadata_props
    stored = {entry.key: entry.value for entry in props}
    assert json.loads(stored["tfcompress"]) == saved
    assert saved["labels"] == ["a", "b"]
    assert saved["model_sha256"] == model_hash(model)


def test_tables_of_words_go_into_a_saved_model(tmp_path):
    words = keras.Input((1,), dtype="string", name="word")
    table = L.StringLookup(vocabulary=["shirt", "shoe"])
    model = keras.Model(words, L.Embedding(3, 4, name="vector")(table(words)))
    path = export_saved_model(model, tmp_path / "words")
    feeds = {"word": np.array([["shoe"], ["hat"]], object)}
    found = run_saved_model(path, feeds)
    np.testing.assert_allclose(
        found["vector"], model(tf.constant(feeds["word"])), rtol=1e-6
    )


def test_an_older_saved_model_is_replaced_and_nothing_else_is(tmp_path):
    one, two = image_model(), image_model()
    randomize(two, seed=5)
    path = export_saved_model(one, tmp_path / "m")
    export_saved_model(two, path)
    feeds = example_inputs(describe(two))
    np.testing.assert_allclose(
        run_saved_model(path, feeds)["logits"],
        two(feeds["image"]),
        rtol=1e-4,
        atol=1e-4,
    )
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with pytest.raises(ExportError, match="something else than a SavedModel"):
        export_saved_model(one, mine)
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]
    with pytest.raises(ExportError, match="this is a file"):
        export_saved_model(one, mine / "notes.txt")
    assert {p.name for p in tmp_path.iterdir()} == {"m", "mine"}


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_written_leaves_nothing(format, tmp_path):
    export = FORMATS[format][0]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export(subclassed(), blocked / "inside" / "model")
    with pytest.raises(ExportError, match="must be plain data"):
        export(subclassed(), tmp_path / "m", metadata={"labels": object()})
    with pytest.raises(ExportError, match="is not built"):
        export(Subclassed(), tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_operations_without_a_counterpart_are_one_line(tmp_path):
    image = keras.Input((4, 4), name="matrix")
    odd = L.Lambda(lambda x: tf.linalg.cholesky(x), output_shape=(4, 4))(image)
    with pytest.raises(ExportError, match=r"Cholesky \(in '") as caught:
        export_onnx(keras.Model(image, odd), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(
        onnx.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError)
    )
    with pytest.raises(ExportError, match=r"pip install 'tfcompress\[onnx\]'"):
        export_onnx(subclassed(), tmp_path / "m.onnx")


def test_other_outputs_are_an_error():
    model = subclassed()
    interface = describe(model)

    def run(feeds, change=0.0, name="output_0"):
        return {name: np.array(model(feeds["inputs"])) + change}

    (name,) = interface.call(example_inputs(interface))
    check_parity("m", interface, lambda feeds: run(feeds, name=name))
    with pytest.raises(ExportError, match="computes something else"):
        check_parity("m", interface, lambda feeds: run(feeds, 0.1, name))
    with pytest.raises(ExportError, match="has the outputs"):
        check_parity("m", interface, lambda feeds: run(feeds, name="other"))
    with pytest.raises(ExportError, match="does not run"):
        check_parity("m", interface, lambda feeds: {}["no"])
