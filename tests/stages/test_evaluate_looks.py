"""What the stage `evaluate` looks at: disagreeing images, layers, rounds."""

import base64
import io
import json

import keras
import numpy as np
import pytest
from PIL import Image

from tfcompress.cost import model_cost
from tfcompress.data import load_dataset
from tfcompress.deploy import export_tflite
from tfcompress.models import vgg
from tfcompress.ranks import Budget, Energy
from tfcompress.stages import Context, Evaluate
from tfcompress.stages.disagreement import FILE, png, write_disagreements
from tfcompress.stages.inspection import export_rounds, quantization_errors
from tfcompress.surgery import factorize


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def network(**options):
    """Few layers: TensorFlow builds graphs for longer than it runs them."""
    return vgg((8, 8, 1), 10, blocks=1, hidden=32, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Two untrained networks, which agree on little, and the first one in int8."""
    folder = tmp_path_factory.mktemp("files")
    models = [network(width=4, seed=seed) for seed in (0, 1)]
    paths = {
        "one": export_tflite(models[0], folder / "one.tflite"),
        "two": export_tflite(models[1], folder / "two.tflite"),
        "int8": export_tflite(
            models[0],
            folder / "int8.tflite",
            quantization="int8",
            calibration=digits.calibration(16),
        ),
    }
    return models, paths


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def test_images_on_which_files_disagree(files, digits, tmp_path):
    (teacher, other), paths = files
    images, labels = digits.arrays("test")
    right = logits(teacher, images).argmax(-1)
    wrong = logits(other, images).argmax(-1)
    figures = write_disagreements(
        tmp_path, {k: paths[k] for k in ("one", "two")}, teacher, digits
    )
    places = np.flatnonzero(wrong != right)
    assert len(places) > 24
    assert figures == {
        "samples": 359,
        "total": len(places),
        "counts": {"one": 0, "two": len(places)},
    }
    found = json.loads((tmp_path / FILE).read_text())
    assert [one["index"] for one in found["images"]] == list(places[:24])
    assert {key: found[key] for key in figures} == figures
    for one in found["images"]:
        index = one["index"]
        assert one["label"] == str(labels[index])
        assert one["teacher"] == one["files"]["one"] == str(right[index])
        assert one["files"]["two"] == str(wrong[index])
        image = Image.open(io.BytesIO(base64.b64decode(one["png"])))
        np.testing.assert_allclose(
            np.asarray(image) / 255, images[index, ..., 0], atol=0.51 / 255
        )
    first = (tmp_path / FILE).read_bytes()
    write_disagreements(
        tmp_path, {k: paths[k] for k in ("one", "two")}, teacher, digits
    )
    assert (tmp_path / FILE).read_bytes() == first
    assert len(first) < 20_000


def test_an_image_of_any_kind():
    colour = np.zeros((200, 100, 3), np.float32) - 1.0
    assert Image.open(io.BytesIO(png(colour, (-1.0, 1.0)))).size == (48, 96)
    many = np.ones((4, 4, 7), np.float32)
    image = Image.open(io.BytesIO(png(many, (0.0, 1.0))))
    assert image.mode == "L" and np.asarray(image).min() == 255


def test_errors_of_layers(files, digits):
    (model, _), paths = files
    found = quantization_errors({"a": paths["int8"]}, model, digits, seed=3)
    assert found == quantization_errors({"a": paths["int8"]}, model, digits, seed=3)
    assert found["samples"] == 64
    assert {"block1_1_conv", "logits"} <= {row["layer"] for row in found["files"]["a"]}
    assert all(0 <= row["relative"] < 1 for row in found["files"]["a"])


def test_a_file_whose_layers_cannot_be_compared_says_why(files, digits, tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    (model, _), _ = files
    found = quantization_errors({"a": broken}, model, digits, seed=0)
    assert "broken.tflite" in found["files"]["a"]


def test_every_round_is_timed_the_rolled_back_ones_too(digits, tmp_path):
    """Also of networks that were factors before: ranks of ranks."""
    from tfcompress.cost import layer_specs

    model = network(width=16)
    rounds, current, costs = [], model, []
    for share, accepted in ((0.8, True), (0.3, False), (0.5, True)):
        dense = model_cost(model, digits.image_shape).macs
        plan = Energy().select(layer_specs(current), Budget(macs=share))
        candidate = factorize(current, plan.choices())
        costs.append(model_cost(candidate, digits.image_shape).macs)
        assert costs[-1] <= share * dense
        rounds.append({"plan": plan.to_dict(), "accepted": accepted})
        current = candidate if accepted else current
    (tmp_path / "rounds.json").write_text(json.dumps(rounds))
    compressed = tmp_path / "compressed.keras"
    current.save(compressed)
    model.save(tmp_path / "teacher.keras")
    found = export_rounds(compressed, model, tmp_path / "files")
    assert list(found) == ["round 1", "round 2", "round 3"]
    sizes = [path.stat().st_size for path in found.values()]
    assert sizes[1] < sizes[2] < sizes[0]

    folder = tmp_path / "evaluate"
    folder.mkdir()
    inputs = {"teacher": tmp_path / "teacher.keras", "compressed": compressed}
    result = Evaluate(latency_runs=3, warmup=0).run(
        inputs, Context(folder=folder, data=digits)
    )
    latencies = result.figures["rounds"]
    assert len(latencies["rounds"]) == 3
    assert all(one["latency"]["median_ms"] > 0 for one in latencies["rounds"])
    before = result.figures["files"][0]["latency"]
    assert latencies["before"]["latency"] == before
    assert not (folder / "rounds").exists()
    assert (folder / FILE).is_file()
    assert result.figures["layer_errors"] == {"samples": 64, "files": {}}


def test_a_model_without_plans_beside_it_has_no_rounds(files, tmp_path):
    (model, _), _ = files
    assert export_rounds(tmp_path / "tuned.keras", model, tmp_path) == {}
