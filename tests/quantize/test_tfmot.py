"""Quantization-aware training, pruning and clustering: what they promise, on digits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tfcompress.deploy import CalibrationError, ExportError, TFLiteModel
from tfcompress.deploy.flatbuffer import float_ops, read_ops
from tfcompress.distill import ViewSpec, evaluate
from tfcompress.errors import OptionError
from tfcompress.models import resnet
from tfcompress.quantize import Training, cluster, prune, quantize_aware

L = keras.layers


@pytest.fixture(scope="module")
def model(by_labels):
    return by_labels(resnet((8, 8, 1), 10, depth=8, width=8, seed=0), epochs=4)


@pytest.fixture(scope="module")
def train(digits):
    return digits.batches("train", 64, shuffle_seed=0, repeat=True)


def short(**options):
    return Training(**{"epochs": 2, "steps_per_epoch": 6, **options})


@pytest.fixture(scope="module")
def pruned(model, train):
    return prune(model, train, sparsity=0.75, training=short(learning_rate=1e-3))


def kernels(model):
    return {
        layer.name: np.asarray(layer.kernel)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def test_pruned_kernels_have_the_zeros_asked_for(model, pruned):
    before = kernels(model)
    for name, kernel in kernels(pruned).items():
        share = np.mean(kernel == 0.0)
        assert share == pytest.approx(0.75, abs=1 / kernel.size), name
        assert not np.any(np.signbit(kernel) & (kernel == 0.0))
        assert not np.array_equal(kernel, before[name])
    assert (kernels(model)["stem_conv"] != 0.0).all()


def test_patterned_zeros(model, train):
    two_of_four = prune(
        model, train, pattern=(2, 4), training=short(epochs=1, steps_per_epoch=1)
    )
    kernel = kernels(two_of_four)["stage2_block1_2_conv"]
    # Along the inputs of each output.
    groups = kernel.reshape(-1, 4, kernel.shape[-1])
    assert ((groups == 0.0).sum(axis=1) == 2).all()


def test_clustered_kernels_have_few_numbers_and_zeros_stay(model, pruned, train):
    plain = cluster(model, train, clusters=8, training=short())
    assert all(len(np.unique(k)) <= 8 for k in kernels(plain).values())
    both = cluster(pruned, train, clusters=8, preserve_sparsity=True, training=short())
    for name, kernel in kernels(both).items():
        assert len(np.unique(kernel)) <= 9, name
        assert (kernel[kernels(pruned)[name] == 0.0] == 0.0).all(), name


def test_quantization_aware_training_makes_an_integer_file(
    model, train, digits, tmp_path
):
    before = model.get_weights()
    flags = [layer.trainable for layer in model.layers]
    told = []
    trained = quantize_aware(
        model,
        train,
        training=short(views=ViewSpec(mode="consistent", crop="mild")),
        progress=lambda *x: told.append(x[:2]),
    )
    assert told == [(1, 2), (2, 2)] and len(trained.history["loss"]) == 2
    assert trained.kept == {}
    path = trained.export(tmp_path / "m.tflite", calibration=digits.calibration(50))
    ops = read_ops(path.read_bytes())
    assert not float_ops(ops)
    images, _ = digits.arrays("validation")
    file = TFLiteModel(path).predict(images)
    # The file rounds as the training did.
    expected = np.asarray(trained.predict(images))
    scale = np.abs(expected).max()
    assert np.abs(file - expected).max() < 0.05 * scale
    agreement = np.mean(file.argmax(-1) == np.asarray(model(images)).argmax(-1))
    assert agreement > 0.95
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert flags == [layer.trainable for layer in model.layers]


def test_a_seed_gives_the_same_twice(model, train):
    found = [
        quantize_aware(model, train, training=short(epochs=1)).model.get_weights()
        for _ in range(2)
    ]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preserve", [("sparsity",), ("sparsity", "clusters")])
def test_zeros_stay_zeros_in_the_integer_file(
    model, pruned, train, digits, preserve, tmp_path
):
    start = pruned
    if "clusters" in preserve:
        start = cluster(
            pruned, train, clusters=8, preserve_sparsity=True, training=short()
        )
    trained = quantize_aware(start, train, training=short(), preserve=preserve)
    path = trained.export(tmp_path / "m.tflite", calibration=digits.calibration(50))
    kernels_of_file = int8_kernels(path)
    assert len(kernels_of_file) == 10
    zeros = [np.mean(kernel == 0) for kernel in kernels_of_file]
    assert min(zeros) > 0.7
    if "clusters" in preserve:
        # Scales differ by output channel: so do the numbers a value becomes.
        dense = next(k for k in kernels_of_file if k.ndim == 2)
        assert len(np.unique(dense)) <= 9


def int8_kernels(path):
    """The int8 constants of a file that have the shape of kernels."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = []
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        kernel = tensor.ShapeLength() in (2, 4) and not isinstance(data, int)
        if kernel and tensor.Type() == schema.TensorType.INT8:
            found.append(data.view(np.int8).reshape(tensor.ShapeAsNumpy()))
    return found


@pytest.mark.parametrize("by", ["distillation", "labels"])
def test_training_by_either_teacher_lowers_the_loss(model, train, by):
    trained = quantize_aware(
        model, train, training=Training(epochs=6, steps_per_epoch=8, by=by)
    )
    losses = trained.history["loss"]
    assert np.isfinite(losses).all()
    if by == "labels":
        assert losses[-1] < losses[0]


def test_several_inputs_and_outputs(tmp_path):
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = L.Flatten()(L.Conv2D(8, 3, activation="relu")(image))
    joined = L.Concatenate()([L.Rescaling(0.5)(x), extra])
    outputs = {"b": L.Dense(3, name="b")(joined), "a": L.Dense(2, name="a")(joined)}
    model = keras.Model({"image": image, "extra": extra}, outputs)
    random = np.random.default_rng(0)
    inputs = {
        "image": random.random((16, 8, 8, 3)).astype("float32"),
        "extra": random.random((16, 4)).astype("float32"),
    }
    train = tf.data.Dataset.from_tensors(inputs).repeat()
    trained = quantize_aware(model, train.map(lambda x: (x,)), training=short())
    assert list(trained.kept.values()) == ["tfmot does not know Rescaling"]
    path = trained.export(tmp_path / "m.tflite", calibration=inputs)
    found = TFLiteModel(path).predict(inputs)
    expected = model(inputs)
    assert set(found) == {"a", "b"}
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 0.1 * np.abs(value).max()


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (prune, {"sparsity": 1.0}, "sparsity must lie"),
        (cluster, {"clusters": 1}, "at least 2"),
        (quantize_aware, {"preserve": ("zeros",)}, "any of"),
    ],
)
def test_bad_options(model, train, function, options, words):
    with pytest.raises(OptionError, match=words):
        function(model, train, **options)


def test_bad_trainings(model, train):
    with pytest.raises(OptionError, match="Train by"):
        Training(by="magic")
    with pytest.raises(OptionError, match="epochs must be positive"):
        Training(epochs=0)
    with pytest.raises(OptionError, match="give steps_per_epoch"):
        quantize_aware(model, train, training=Training())


def test_bad_exports(model, train, tmp_path):
    trained = quantize_aware(model, train, training=short(epochs=1, steps_per_epoch=1))
    with pytest.raises(ExportError, match="io_dtype"):
        trained.export(tmp_path / "m", calibration=None, io_dtype="int16")
    with pytest.raises(CalibrationError, match="needs `calibration`"):
        trained.export(tmp_path / "m", calibration=None)
    assert not list(tmp_path.iterdir())


def test_pruning_longer_recovers(model, digits, train):
    """Slow (some seconds of training): that pruning trains, and not only cuts."""
    cut, trained = (
        prune(
            model,
            train,
            sparsity=0.5,
            training=Training(
                epochs=epochs, steps_per_epoch=18, learning_rate=3e-3, by="labels"
            ),
        )
        for epochs in (1, 6)
    )
    validation = digits.batches("validation", 256)
    scores = [evaluate(one, validation)["accuracy"] for one in (cut, trained)]
    assert scores[1] > scores[0]
