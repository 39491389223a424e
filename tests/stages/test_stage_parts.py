"""What stages are built of: networks, model files, selectors."""

import dataclasses

import keras
import numpy as np
import pytest

from tfcompress.data import load_dataset
from tfcompress.deploy import ExportError
from tfcompress.errors import ModelFileError, OptionError, TfcompressError
from tfcompress.models import resnet, vgg
from tfcompress.ranks import VBMF, Budget, Energy
from tfcompress.stages import (
    STAGES,
    Compress,
    Context,
    Distill,
    ExportTFLite,
    Network,
    Teacher,
    load_model,
)
from tfcompress.stages.compress import make_selector
from tfcompress.stages.training import schedule


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def small(seed):
    """Few layers: TensorFlow builds graphs for longer than it trains."""
    return vgg((8, 8, 1), 10, blocks=1, width=4, hidden=8, seed=seed)


def test_network_is_made_for_the_data(digits):
    model = Network(network="vgg", width=8, blocks=2, hidden=16).make(digits, 3)
    assert model.input_shape == (None, 8, 8, 1)
    assert model.output_shape == (None, 10)
    again = Network(network="vgg", width=8, blocks=2, hidden=16).make(digits, 3)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Network(network="restnet"), "did you mean 'resnet'"),
        (Network(depth=9), "6n \\+ 2"),
        (Network(network="vgg", depth=8), "depth"),
    ],
)
def test_networks_that_do_not_exist(digits, network, words):
    with pytest.raises(ModelFileError, match=words):
        network.make(digits, 0)


def test_model_files_that_do_not_fit(digits, tmp_path):
    large = tmp_path / "large.keras"
    resnet((9, 9, 1), 10, depth=8, width=4).save(large)
    with pytest.raises(ModelFileError, match="images of shape"):
        load_model(large, digits)
    two = tmp_path / "two.keras"
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    outputs = [keras.layers.Dense(10)(flat), keras.layers.Dense(10)(flat)]
    keras.Model(image, outputs).save(two)
    with pytest.raises(ModelFileError, match="classes"):
        load_model(two, digits)
    empty = tmp_path / "empty.keras"
    empty.write_bytes(b"")
    with pytest.raises(ModelFileError, match="not a Keras model"):
        load_model(empty)
    cut = tmp_path / "cut.keras"
    cut.write_bytes(large.read_bytes()[:500])
    with pytest.raises(ModelFileError, match="not a Keras model"):
        load_model(cut)


def test_code_in_a_model_file_is_not_run(tmp_path):
    path = tmp_path / "code.keras"
    image = keras.Input((8, 8, 1))
    keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image)).save(path)
    with pytest.raises(ModelFileError, match="loaded safely"):
        load_model(path)


def test_any_image_size_is_taken_where_the_model_leaves_it_open(digits, tmp_path):
    image = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path / "open.keras"
    keras.Model(image, keras.layers.Dense(10)(x)).save(path)
    assert load_model(path, digits).output_shape == (None, 10)


def test_selectors_by_name():
    budget = Budget(macs=0.5)
    assert make_selector("energy", {"keep": ("a",)}, budget) == Energy(keep=("a",))
    # Under a budget VBMF looks for the weakening, unless it is said.
    assert make_selector("vbmf", {}, budget) == VBMF(weakening=None)
    assert make_selector("vbmf", {"weakening": 0.5}, budget) == VBMF(weakening=0.5)
    with pytest.raises(TfcompressError, match="did you mean 'threshold'"):
        make_selector("energy", {"treshold": 1}, budget)
    with pytest.raises(TfcompressError, match="ranks"):
        make_selector("fixed", {}, budget)


@pytest.mark.parametrize("name", STAGES)
def test_fields_are_plain_data(name):
    """So that they can be recipe keys, flags and pipeline parameters."""
    stage = STAGES[name]()
    rebuilt = dataclasses.asdict(stage)
    assert type(stage).__dataclass_params__.frozen
    assert set(rebuilt) == {field.name for field in dataclasses.fields(stage)}


def test_a_trained_on_student_file_is_not_changed(digits, tmp_path):
    (tmp_path / "out").mkdir()
    small(seed=0).save(tmp_path / "teacher.keras")
    start = tmp_path / "student.keras"
    small(seed=1).save(start)
    before = start.read_bytes()
    stage = Distill(student=Network(load=str(start)), steps=2)
    result = stage.run(
        {"teacher": tmp_path / "teacher.keras"},
        Context(folder=tmp_path / "out", data=digits),
    )
    assert start.read_bytes() == before
    assert result.artefacts["student"].parent == tmp_path / "out"
    assert stage.sources() == (start,)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (125, 8)),
        ({"epochs": 4}, (4, 8)),
        ({"steps": 16}, (2, 8)),
        ({"steps": 16, "epochs": 4}, (4, 8)),
        ({"steps": 80, "epochs": 4}, (10, 8)),
        ({"steps": 16, "batch_size": 5000}, (16, 1)),
    ],
)
def test_length_of_training(digits, tmp_path, options, expected):
    context = Context(folder=tmp_path, data=digits)
    _, *length = schedule(Teacher(**options), context, default_steps=1000)
    assert tuple(length) == expected


@pytest.mark.parametrize("stage", [Teacher, Distill, Compress])
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"weight_decay": float("inf")},
    ],
)
def test_numbers_out_of_range_are_refused_at_once(stage, options):
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
        stage(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"label_weight": -1.0},
        {"max_drop": float("nan")},
        {"rounds": 0},
        {"retries": -1},
    ],
)
def test_numbers_of_compression_too(options):
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
        Compress(**options)


def test_export_options():
    with pytest.raises(ExportError, match="did you mean 'int8'"):
        ExportTFLite(quantization=("in8",))
    with pytest.raises(OptionError, match="max_drop must lie"):
        ExportTFLite(max_drop=1.5)
    with pytest.raises(OptionError, match="float32 or integer"):
        ExportTFLite(io_dtype="int8")


def test_export_as_far_as_the_accuracy_allows(digits, tmp_path):
    keras.utils.set_random_seed(0)
    model = small(seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(*digits.arrays("train"), epochs=2, verbose=0)
    path = tmp_path / "teacher.keras"
    model.save(path)
    folder = tmp_path / "run"
    folder.mkdir()
    stage = ExportTFLite(
        quantization=("float32", "auto"), max_drop=0.0, training_epochs=1
    )
    result = stage.run({"teacher": path}, Context(folder=folder, data=digits))
    assert set(result.artefacts) == {"float32", "auto"}
    found = result.figures["auto"]
    names = [trial["method"] for trial in found["trials"]]
    assert names[:2] == ["float32", "int8"] and found["chosen"] in names[1:]
    chosen = next(t for t in found["trials"] if t["method"] == found["chosen"])
    assert chosen["bytes"] == result.artefacts["auto"].stat().st_size
    assert found["met"] == (chosen["drop"] <= 0.0)
