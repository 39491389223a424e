"""Export: the written file computes what the Keras model computes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tfcompress
from tfcompress.deploy import (
    CalibrationError,
    Exporter,
    ExportError,
    ModelFileError,
    TFLiteModel,
    export_tflite,
    inspect_tflite,
)
from tfcompress.deploy.flatbuffer import (
    KERNEL_OPS,
    float_ops,
    read_ops,
    stored_bytes,
)
from tfcompress.deploy.interface import describe
from tfcompress.deploy.metadata import model_hash
from tfcompress.deploy.verify import verify

L = keras.layers


def body(x, *, classes=4):
    x = L.Conv2D(16, 3, activation="relu", padding="same")(x)
    x = L.BatchNormalization()(x)
    x = L.DepthwiseConv2D(3)(x)
    x = L.Conv2D(32, 3, strides=2)(x)
    x = L.Dropout(0.5)(x)
    return L.Dense(classes, name="logits")(L.Flatten()(x))


def functional():
    image = keras.Input((12, 12, 3), name="image")
    return keras.Model(image, body(image))


def sequential():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            L.Conv2D(8, 3, activation="relu"),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(4, name="logits"),
        ]
    )


def nested():
    inner = functional()
    image = keras.Input((12, 12, 3), name="image")
    return keras.Model(image, L.Dense(4, name="logits")(L.ReLU()(inner(image))))


def two_inputs():
    image = keras.Input((12, 12, 3), name="image")
    extra = keras.Input((5,), name="extra")
    joined = L.Concatenate()([body(image), extra])
    logits = L.Dense(4, name="head")(joined)
    return keras.Model({"image": image, "extra": extra}, logits)


def two_outputs():
    image = keras.Input((12, 12, 3), name="image")
    features = body(image, classes=8)
    return keras.Model(
        image, [L.Dense(4, name="zeta")(features), L.Dense(2, name="alpha")(features)]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = L.Conv2D(8, 3, activation="relu")
        self.dropout = L.Dropout(0.5)
        self.dense = L.Dense(4)

    def call(self, inputs, training=None):
        x = self.dropout(self.conv(inputs), training=training)
        return self.dense(keras.ops.mean(x, axis=(1, 2)))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 12, 12, 3), "float32"))
    return model


def images(count=16, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 12, 12, 3)).astype("float32")


def shaken(build):
    """A model whose batch norm statistics and biases are not at their start."""
    keras.utils.set_random_seed(1)
    model = build()
    random = np.random.default_rng(2)
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights(
                [random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
    return model


def signature(path):
    return Interpreter(str(path)).get_signature_list()["serving_default"]


def feeds(model, count=16):
    if describe(model).by_name:
        extra = np.random.default_rng(3).normal(size=(count, 5)).astype("float32")
        return {"image": images(count), "extra": extra}
    return images(count)


def expected_of(build, model, inputs):
    """Outputs as a file gives them: several by name."""
    outputs = model(inputs, training=False)
    if build is two_outputs:
        return dict(zip(["zeta", "alpha"], outputs, strict=True))
    return outputs


BUILDERS = [functional, sequential, nested, two_inputs, two_outputs, subclassed]


@pytest.mark.parametrize("build", BUILDERS)
def test_float32_equals_keras_at_any_batch_size(build, tmp_path):
    model = shaken(build)
    before = [np.array(w) for w in model.get_weights()]
    path = export_tflite(model, tmp_path / "new" / "m.tflite")
    inputs = feeds(model, 7)
    expected = expected_of(build, model, inputs)
    for batch_size in (1, 3, 7):
        got = TFLiteModel(path).predict(inputs, batch_size=batch_size)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, got
        )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [p.name for p in path.parent.iterdir()] == ["m.tflite"]
    assert not any(op.custom for op in read_ops(path.read_bytes()))


@pytest.mark.parametrize(
    ("build", "inputs", "outputs"),
    [
        (functional, ["image"], ["logits"]),
        (sequential, ["image"], ["logits"]),
        (nested, ["image"], ["logits"]),
        (two_inputs, ["extra", "image"], ["head"]),
        (two_outputs, ["image"], ["alpha", "zeta"]),
        (subclassed, ["inputs"], ["output_0"]),
    ],
)
def test_signature_bears_the_models_names(build, inputs, outputs, tmp_path):
    names = signature(export_tflite(build(), tmp_path / "m.tflite"))
    assert (sorted(names["inputs"]), sorted(names["outputs"])) == (inputs, outputs)


# Largest difference as a fraction of the largest output: float16 has 11 bits of
# mantissa; 8 bits with several layers of rounding on random weights stay within 5 %.
@pytest.mark.parametrize(
    ("quantization", "tolerance"), [("float16", 2e-3), ("dynamic", 0.05)]
)
@pytest.mark.parametrize("build", [functional, two_inputs])
def test_reduced_weights_stay_close(build, quantization, tolerance, tmp_path):
    model = shaken(build)
    path = export_tflite(model, tmp_path / "m.tflite", quantization=quantization)
    inputs = feeds(model)
    expected = np.array(model(inputs, training=False))
    got = TFLiteModel(path).predict(inputs)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()
    full = export_tflite(model, tmp_path / "full.tflite")
    assert path.stat().st_size < 0.8 * full.stat().st_size


@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
@pytest.mark.parametrize("build", BUILDERS)
def test_int8_is_integer_throughout_and_close(build, io_dtype, tmp_path):
    model = shaken(build)
    inputs = feeds(model, 32)
    path = export_tflite(
        model,
        tmp_path / "m.tflite",
        quantization="int8",
        calibration=[inputs],
        io_dtype=io_dtype,
    )
    ops = read_ops(path.read_bytes())
    assert any(op.name in KERNEL_OPS for op in ops) and not float_ops(ops)
    file = TFLiteModel(path)
    assert {info.dtype for info in (*file.inputs, *file.outputs)} == {io_dtype}
    got = keras.tree.flatten(file.predict(inputs, batch_size=5))
    expected = expected_of(build, model, inputs)
    for a, b in zip(keras.tree.flatten(expected), got, strict=True):
        assert b.dtype == np.float32 and b.shape == a.shape
        assert np.abs(a - b).max() <= 0.06 * np.abs(a).max()


def test_several_files_of_one_trace_are_those_of_several(tmp_path):
    model = shaken(functional)
    weights = [np.array(w) for w in model.weights]
    forms = {"float32": None, "int8": images(), "dynamic": None}
    with Exporter(model) as exporter:
        for form, calibration in forms.items():
            options = {"quantization": form, "calibration": calibration}
            one = exporter.write(tmp_path / "one.tflite", **options)
            other = export_tflite(model, tmp_path / "other.tflite", **options)
            same = one.read_bytes() == other.read_bytes()
            assert same, form
        with pytest.raises(ExportError, match="int7"):
            exporter.write(tmp_path / "bad.tflite", quantization="int7")
    assert not (tmp_path / "bad.tflite").exists()
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_calibration_takes_a_dataset_and_reads_at_most_500_samples(tmp_path):
    taken = []

    def batches():
        for index in range(100):
            taken.append(index)
            yield (images(50, index),)

    data = tf.data.Dataset.from_tensor_slices(images(20)).batch(8)
    model = sequential()
    for calibration in (data, images(20), batches()):
        export_tflite(
            model, tmp_path / "m", quantization="int8", calibration=calibration
        )
    assert len(taken) == 10


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "needs `calibration`"),
        ([], "no samples"),
        ([(images(4), np.zeros(4))], "drop labels"),
        ([{"other": images(4)}], "drop labels"),
        ([images(4)[:, :5]], r"\(None, 12, 12, 3\)"),
        ([np.full((2, 12, 12, 3), np.nan)], "finite"),
    ],
)
def test_bad_calibration_is_one_clear_line(calibration, words, tmp_path):
    with pytest.raises(CalibrationError, match=words) as caught:
        export_tflite(
            functional(), tmp_path / "m", quantization="int8", calibration=calibration
        )
    assert "\n" not in str(caught.value) and "Received: " in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "int4"},
        {"io_dtype": "int8"},
        {"io_dtype": "uint8", "quantization": "int8"},
        {"input_shapes": {"a": (None, 3), "b": (None, 3)}},
        {"input_shapes": "12x12"},
    ],
)
def test_bad_options_name_what_was_received(options, tmp_path):
    with pytest.raises(ExportError, match="Received: "):
        export_tflite(sequential(), tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_unbuilt_model_and_other_objects(tmp_path):
    with pytest.raises(ExportError, match="not built"):
        export_tflite(keras.Sequential([L.Dense(2)]), tmp_path / "m")
    with pytest.raises(ExportError, match="Received: function"):
        export_tflite(lambda x: x, tmp_path / "m")


def test_unwritable_path_leaves_nothing(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("kept")
    for path in (file / "x.tflite", tmp_path):
        with pytest.raises(ExportError, match="Received: "):
            export_tflite(sequential(), path)
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "kept"


class Orthogonal(L.Layer):
    def call(self, x):
        return keras.ops.qr(x)[0]


def test_failure_keeps_the_older_file(tmp_path):
    image = keras.Input((4, 4), name="image")
    model = keras.Model(image, Orthogonal(name="to_q")(L.Dense(4)(image)))
    path = tmp_path / "m.tflite"
    path.write_text("older")
    with pytest.raises(
        ExportError, match=r"no built-in operation for Qr \(in the layer 'to_q'\)"
    ) as caught:
        export_tflite(model, path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "older"


def test_verification_names_float_operations(tmp_path):
    model = functional()
    path = export_tflite(model, tmp_path / "m.tflite")
    with pytest.raises(ExportError, match=r"CONV_2D\(FLOAT32"):
        verify(
            path,
            name="m",
            model=model,
            interface=describe(model),
            quantization="int8",
        )


def test_input_shapes_fix_the_batch_and_rename(tmp_path):
    path = export_tflite(
        sequential(), tmp_path / "m", input_shapes={"photo": (2, 12, 12, 3)}
    )
    (info,) = TFLiteModel(path).inputs
    assert (info.name, info.shape) == ("photo", (2, 12, 12, 3))
    assert TFLiteModel(path).predict(images(5)).shape == (5, 4)


def test_names_that_are_no_identifiers_survive(tmp_path):
    image = keras.Input((6,), name="my-image")
    path = export_tflite(keras.Model(image, L.Dense(2)(image)), tmp_path / "m")
    assert signature(path)["inputs"] == ["my-image"]


def test_integer_inputs_keep_their_dtype(tmp_path):
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = L.GlobalAveragePooling1D()(L.Embedding(10, 6)(tokens))
    model = keras.Model(tokens, L.Dense(3)(x))
    ids = np.random.default_rng(0).integers(0, 10, (8, 5), "int32")
    for quantization in ("float32", "int8"):
        path = export_tflite(
            model, tmp_path / "m", quantization=quantization, calibration=[ids]
        )
        file = TFLiteModel(path)
        assert file.inputs[0].dtype == "int32"
        np.testing.assert_allclose(file.predict(ids), model(ids), atol=0.01)


class Pair(keras.Model):
    def __init__(self, dtype):
        super().__init__(dtype=dtype)
        self.dense = L.Dense(3, dtype=dtype)

    def build(self, left_shape, right_shape):
        self.dense.build(left_shape)

    def call(self, left, right):
        return self.dense(left) - self.dense(right)


def test_separate_call_arguments_become_inputs(tmp_path):
    left, right = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    model = Pair("float32")
    expected = model(left, right)
    path = export_tflite(model, tmp_path / "m")
    got = TFLiteModel(path).predict({"left": left, "right": right})
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_half_precision_is_named_as_the_reason(tmp_path):
    model = Pair("mixed_float16")
    model(np.zeros((2, 6)), np.zeros((2, 6)))
    with pytest.raises(ExportError, match="'float32' dtype policy"):
        export_tflite(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("quantization", "tolerance", "stored", "share"),
    [("weight_int8", 0.02, "INT8", 0.4), ("weight_int4", 0.5, "INT4", 0.25)],
)
def test_weights_alone_are_small_and_computed_with_in_float(
    quantization, tolerance, stored, share, tmp_path
):
    model = shaken(functional)
    inputs = feeds(model)
    path = export_tflite(model, tmp_path / "m.tflite", quantization=quantization)
    expected = np.array(model(inputs, training=False))
    got = TFLiteModel(path).predict(inputs)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()
    content = path.read_bytes()
    full = export_tflite(model, tmp_path / "full.tflite").read_bytes()
    sizes = [sum(stored_bytes(c).values()) for c in (content, full)]
    assert sizes[0] < share * sizes[1] and stored in stored_bytes(content)
    assert all(
        "FLOAT32" in op.results for op in read_ops(content) if op.name in KERNEL_OPS
    )


@pytest.mark.parametrize("io_dtype", ["float32", "int16"])
@pytest.mark.parametrize("build", BUILDERS)
def test_wide_activations_are_integer_and_closer(build, io_dtype, tmp_path):
    model = shaken(build)
    inputs = feeds(model, 32)
    path = export_tflite(
        model,
        tmp_path / "m.tflite",
        quantization="16x8",
        calibration=[inputs],
        io_dtype=io_dtype,
    )
    ops = read_ops(path.read_bytes())
    assert not float_ops(ops, wide=True)
    assert all("INT16" in op.operands for op in ops if op.name in KERNEL_OPS)
    file = TFLiteModel(path)
    assert {info.dtype for info in (*file.inputs, *file.outputs)} == {io_dtype}
    got = keras.tree.flatten(file.predict(inputs, batch_size=5))
    expected = expected_of(build, model, inputs)
    for a, b in zip(keras.tree.flatten(expected), got, strict=True):
        assert np.abs(a - b).max() <= 0.02 * np.abs(a).max()


def test_float_operations_are_allowed_where_said(tmp_path):
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(4, 3)(image)
    model = keras.Model(image, L.Dense(3, name="last")(L.Flatten()(Gamma("own")(x))))
    options = {"quantization": "int8", "calibration": np.abs(images(8)) + 1}
    with pytest.raises(ExportError, match=r"FULLY_CONNECTED\(FLOAT32") as caught:
        export_tflite(model, tmp_path / "m.tflite", **options)
    assert "'own'" in str(caught.value)
    assert not list(tmp_path.iterdir())
    path = export_tflite(model, tmp_path / "m.tflite", allow=("float",), **options)
    assert float_ops(read_ops(path.read_bytes()))
    with pytest.raises(ExportError, match="Received: 'float'"):
        export_tflite(model, tmp_path / "m.tflite", allow="float", **options)


class Gamma(L.Layer):
    """Converts, but not to integers."""

    def __init__(self, name):
        super().__init__(name=name)

    def call(self, x):
        return tf.math.lgamma(tf.abs(x) + 1.0)


def test_flex_operations_are_allowed_where_said(tmp_path):
    image = keras.Input((4, 4), name="image")
    model = keras.Model(image, Orthogonal(name="to_q")(image))
    path = export_tflite(model, tmp_path / "m.tflite", allow=("flex",))
    assert [op.name for op in read_ops(path.read_bytes()) if op.custom] == ["FlexQr"]


def test_nothing_quantized_is_an_error(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ExportError, match="holds no INT8 weights"):
        export_tflite(model, tmp_path / "m.tflite", quantization="dynamic")


def test_metadata_are_read_again_and_changes_are_seen(tmp_path):
    model = shaken(functional)
    given = {
        "labels": ["Trouser", "Größe"],
        "normalization": {"range": [0.0, 1.0]},
    }
    path = export_tflite(model, tmp_path / "m.tflite", metadata=given)
    found = inspect_tflite(path)
    assert found.metadata | given == found.metadata
    assert found.metadata["tfcompress"] == tfcompress.__version__
    assert found.metadata["model_sha256"] == model_hash(model)
    assert found.metadata["quantization"] == "float32"
    assert found.intact and "contents: as exported" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["metadata"] == found.metadata
    assert found.ops["CONV_2D(FLOAT32, FLOAT32, FLOAT32)"] == 2
    content = bytearray(path.read_bytes())
    # As it lies in the file: output channels first.
    place = content.index(np.asarray(model.layers[-1].kernel).T.tobytes())
    content[place : place + 4] = np.float32(9.0).tobytes()
    path.write_bytes(content)
    assert not inspect_tflite(path).intact
    assert "CHANGED" in str(inspect_tflite(path))
    with pytest.raises(ExportError, match="plain data"):
        export_tflite(model, path, metadata={"labels": {1, 2}})


def test_files_of_others_are_inspected_too(tmp_path):
    content = tf.lite.TFLiteConverter.from_keras_model(functional()).convert()
    (tmp_path / "m.tflite").write_bytes(content)
    found = inspect_tflite(tmp_path / "m.tflite")
    assert found.metadata is None and found.intact is None
    assert "no metadata of tfcompress" in str(found)
    (tmp_path / "m.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="Received: "):
        inspect_tflite(tmp_path / "m.tflite")
