"""Prediction and scoring on the exported file."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.deploy import (
    ModelFileError,
    ModelInputError,
    TFLiteModel,
    evaluate_tflite,
    export_tflite,
    measure_latency,
)
from tfcompress.errors import TfcompressError

WEIGHTS = np.array([[1, 0, -1], [0, 1, -1]], "float32")
POINTS = np.array([[2, 1], [1, 2], [-1, -1], [3, 0], [0, 3]], "float32")
TOP1 = [0, 1, 2, 0, 1]


def linear(weights=WEIGHTS):
    model = keras.Sequential(
        [keras.Input((2,), name="point"), keras.layers.Dense(3, use_bias=False)]
    )
    model.set_weights([weights])
    return model


@pytest.fixture(scope="module")
def linear_file(tmp_path_factory):
    return export_tflite(linear(), tmp_path_factory.mktemp("files") / "linear.tflite")


def test_accuracy_is_that_counted_by_hand(linear_file):
    labels = np.array([0, 1, 2, 1, 0])
    data = tf.data.Dataset.from_tensor_slices((POINTS, labels)).batch(2)
    assert evaluate_tflite(linear_file, data) == {"accuracy": 0.6, "samples": 5}
    column = data.map(lambda x, y: (x, y[:, None]))
    assert evaluate_tflite(linear_file, column)["accuracy"] == 0.6


def test_agreement_and_difference_with_a_reference(linear_file):
    data = [(POINTS[:3], np.array(TOP1[:3])), (POINTS[3:], np.array(TOP1[3:]))]
    same = evaluate_tflite(linear_file, data, reference=linear())
    assert same["accuracy"] == same["agreement"] == 1.0
    assert same["max_abs_difference"] < 1e-6
    # Swapping two classes leaves only the third point's class as it was.
    swapped = evaluate_tflite(
        linear_file, data, reference=lambda x: x @ WEIGHTS[:, [1, 0, 2]]
    )
    assert swapped["agreement"] == swapped["reference_accuracy"] == 0.2
    assert swapped["max_abs_difference"] == pytest.approx(3.0, abs=1e-6)


def test_int8_inputs_are_quantized_and_outputs_dequantized(tmp_path):
    path = export_tflite(
        linear(),
        tmp_path / "m.tflite",
        quantization="int8",
        calibration=[POINTS],
        io_dtype="int8",
    )
    file = TFLiteModel(path)
    got = file.predict(POINTS)
    assert got.dtype == np.float32
    steps = 2 * file.outputs[0].scale + 2 * file.inputs[0].scale
    np.testing.assert_allclose(got, POINTS @ WEIGHTS, atol=steps)
    raw = file.inputs[0].quantize(POINTS)
    assert raw.dtype == np.int8
    np.testing.assert_array_equal(file.predict(raw), got)
    assert evaluate_tflite(path, [(POINTS, np.array(TOP1))])["accuracy"] == 1.0


def test_two_inputs_and_outputs_go_by_name(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    model = keras.Model([a, b], {"minus": a - b, "plus": a + b})
    path = export_tflite(model, tmp_path / "m.tflite")
    got = TFLiteModel(path).predict({"a": POINTS, "b": POINTS[::-1]}, batch_size=2)
    np.testing.assert_allclose(got["minus"], POINTS - POINTS[::-1])
    np.testing.assert_allclose(got["plus"], POINTS + POINTS[::-1])
    with pytest.raises(ModelInputError, match="as a dict"):
        TFLiteModel(path).predict([POINTS, POINTS])
    with pytest.raises(ModelInputError, match="one output"):
        evaluate_tflite(path, [])


def test_operations_that_mix_a_batch_fall_back_to_single_samples(tmp_path):
    class Folding(keras.Model):
        def call(self, x):
            return keras.ops.reshape(x, (1, -1))

    model = Folding()
    model(POINTS[:1])
    path = export_tflite(model, tmp_path / "m.tflite")
    np.testing.assert_array_equal(TFLiteModel(path).predict(POINTS), POINTS)


def test_information_on_inputs_and_outputs(linear_file):
    file = TFLiteModel(linear_file, num_threads=1)
    (point,), (scores,) = file.inputs, file.outputs
    assert (point.name, point.shape, point.dtype) == ("point", (None, 2), "float32")
    assert (scores.shape, scores.scale) == ((None, 3), 0.0)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut", "torn"])
@pytest.mark.parametrize("use", ["model", "evaluate", "latency"])
def test_bad_files_give_one_clear_error(kind, use, linear_file, tmp_path):
    path = tmp_path / "bad.tflite"
    whole = linear_file.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        content = {
            "empty": b"",
            "text": b"this is no model at all",
            "cut": whole[: len(whole) // 2],
            "torn": whole[:6],
        }[kind]
        path.write_bytes(content)
    calls = {
        "model": TFLiteModel,
        "evaluate": lambda p: evaluate_tflite(p, [(POINTS, np.array(TOP1))]),
        "latency": lambda p: measure_latency({"bad": p}),
    }
    with pytest.raises(ModelFileError) as caught:
        calls[use](path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(f"Received: {path}")


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((3, 5), "float32"),
        np.zeros(2, "float32"),
        np.zeros((0, 2), "float32"),
        {"other": POINTS},
        [POINTS, POINTS],
    ],
)
def test_inputs_that_do_not_fit(inputs, linear_file):
    with pytest.raises(ModelInputError, match="Received: "):
        TFLiteModel(linear_file).predict(inputs)
    # The model is still good afterwards.
    file = TFLiteModel(linear_file)
    np.testing.assert_allclose(file.predict(POINTS), POINTS @ WEIGHTS, atol=1e-6)


@pytest.mark.parametrize(
    "labels", [np.eye(3)[TOP1], np.array(TOP1, "float32"), np.array(TOP1[:4])]
)
def test_labels_that_are_not_class_numbers(labels, linear_file):
    with pytest.raises(ModelInputError, match="class numbers"):
        evaluate_tflite(linear_file, [(POINTS, labels)])


def test_empty_dataset_and_reference_of_other_shape(linear_file):
    with pytest.raises(ModelInputError, match="empty"):
        evaluate_tflite(linear_file, [])
    with pytest.raises(TfcompressError, match=r"Received: \(5, 2\) and \(5, 3\)"):
        evaluate_tflite(linear_file, [(POINTS, np.array(TOP1))], reference=lambda x: x)
