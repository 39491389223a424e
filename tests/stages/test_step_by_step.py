"""The loop taken apart: factorize, fine_tune and quantize as stages of their own."""

import json

import pytest

from tfcompress.data import load_dataset
from tfcompress.deploy import inspect_tflite
from tfcompress.errors import NothingToCompressError, OptionError, RecipeError
from tfcompress.recipe import parse_recipe
from tfcompress.report import without_times
from tfcompress.runner import run_recipe
from tfcompress.stages import Factorize, FineTune, Quantize, load_model

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 1, "width": 16, "hidden": 32}
RECIPE = {
    "dataset": "digits",
    "stages": [
        {"teacher": {"network": NETWORK, "steps": 300}},
        {"factorize": {"target": {"macs": 0.5}, "calibration_steps": 4}},
        {"fine_tune": {"epochs": 8, "views": {"mode": "consistent", "crop": "mild"}}},
        {
            "quantize": {
                "epochs": 6,
                "learning_rate": 1e-3,
                "sparsity": 0.3,
                "calibration": 32,
            }
        },
        {"export_tflite": {"quantization": ["float32", "int8"], "calibration": 32}},
        {
            "evaluate": {
                "latency_runs": 5,
                "warmup": 1,
                "thresholds": {"min_accuracy": 0.5, "max_bytes": 25_000},
            }
        },
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "one"
    return folder, run_recipe(parse_recipe(RECIPE), folder)


def test_each_step_does_its_part(run):
    folder, report = run
    figures = {stage["stage"]: stage["figures"] for stage in report["stages"]}
    cut, tuned = figures["factorize"], figures["fine_tune"]
    assert cut["target_met"] and cut["after"]["macs"] <= 0.5 * cut["before"]["macs"]
    assert any(row["ranks"] for row in cut["layers"])
    assert all(row["ranks"] or row["reason"] for row in cut["layers"])
    assert tuned["before"]["macs"] == tuned["after"]["macs"] == cut["after"]["macs"]
    assert tuned["before"]["accuracy"] == cut["after"]["accuracy"]
    assert tuned["after"]["kl"] < tuned["before"]["kl"]
    plan = json.loads((folder / "02-factorize" / "plan.json").read_text())
    assert plan["layers"]
    rows = {row["name"]: row for row in figures["evaluate"]["files"]}
    names = ["compressed float32", "compressed int8", "compressed quantized"]
    assert set(rows) == {"teacher float32", *names}
    for name in names:
        assert rows[name]["accuracy"] > rows["teacher float32"]["accuracy"] - 0.05
    # Four bytes for each number are too many here; one is not.
    failures = figures["evaluate"]["failures"]
    assert failures["compressed int8"] == failures["compressed quantized"] == []
    (reason,) = failures["compressed float32"]
    size = rows["compressed float32"]["bytes"]
    assert reason == f"bytes {size} is above max_bytes 25000"
    text = (folder / "report.md").read_text()
    assert f"- compressed float32: NOT blessed: {reason}" in text
    assert "- compressed int8: blessed" in text
    file = folder / "04-quantize" / "compressed_quantized.tflite"
    found = inspect_tflite(file)
    assert found.metadata["trained"] == "quantization aware" and found.intact
    assert "| compressed quantized |" in (folder / "report.md").read_text()


def test_the_same_seed_gives_the_same_steps(run, tmp_path):
    steps = RECIPE["stages"][:4]
    again = run_recipe(parse_recipe(RECIPE | {"stages": steps}), tmp_path / "again")
    for one, other in zip(run[1]["stages"][:4], again["stages"], strict=True):
        assert without_times(one) == without_times(other)


def test_nothing_to_factorize(run, tmp_path):
    recipe = {
        "dataset": "digits",
        "stages": [
            {
                "teacher": {
                    "network": {"load": str(run[0] / "01-teacher/teacher.keras")}
                }
            },
            {"factorize": {"options": {"keep": ["*"]}, "calibration_steps": 0}},
        ],
    }
    with pytest.raises(NothingToCompressError, match="another rank selector"):
        run_recipe(parse_recipe(recipe), tmp_path / "run")


def test_labels_alone(run, tmp_path):
    from tfcompress.stages import Context

    folder = run[0]
    data = load_dataset("digits")
    stage = FineTune(by="labels", steps=20)
    inputs = {
        "teacher": folder / "01-teacher" / "teacher.keras",
        "compressed": folder / "02-factorize" / "compressed.keras",
    }
    result = stage.run(inputs, Context(folder=tmp_path, data=data))
    assert load_model(result.artefacts["compressed"], data).built
    assert result.figures["after"]["accuracy"] > 0.8


def test_bad_options():
    for cls, options, words in (
        (FineTune, {"by": "label"}, "did you mean 'labels'"),
        (Quantize, {"sparsity": 1.0}, "sparsity must lie"),
        (Quantize, {"clusters": 1}, "at least 2"),
        (Quantize, {"epochs": 0}, "epochs must be at least 1"),
        (Factorize, {"selector": "vmbf"}, "did you mean 'vbmf'"),
    ):
        with pytest.raises(OptionError, match=words):
            cls(**options)
    with pytest.raises(RecipeError, match="needs the artefact 'compressed'"):
        parse_recipe({"dataset": "digits", "stages": ["teacher", "fine_tune"]})
