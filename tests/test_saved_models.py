"""The committed models are those of their report, and as good as it says."""

import json
from pathlib import Path

import pytest

from tfcompress.data import load_dataset
from tfcompress.deploy import evaluate_tflite
from tfcompress.distill import evaluate
from tfcompress.files import content_hash
from tfcompress.stages import load_model

FOLDER = Path("saved_models/digits")
REPORT = json.loads((FOLDER / "report.json").read_text())
STAGES = {stage["stage"]: stage for stage in REPORT["stages"]}

# One image of the 359: other processors round differently.
TOLERANCE = 1 / 359 + 1e-9


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    assert data.fingerprint == REPORT["dataset"]["fingerprint"]
    return data


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_file(name, digits):
    path = FOLDER / f"compressed_{name}.tflite"
    assert content_hash(path) == STAGES["export_tflite"]["hashes"][name]
    rows = {row["name"]: row for row in STAGES["evaluate"]["figures"]["files"]}
    row = rows[f"compressed {name}"]
    found = evaluate_tflite(path, digits.batches("test", 256))
    assert found["accuracy"] == pytest.approx(row["accuracy"], abs=TOLERANCE)
    assert path.stat().st_size == row["bytes"]


def test_keras_model(digits):
    path = FOLDER / "compressed.keras"
    assert content_hash(path) == STAGES["compress"]["hashes"]["compressed"]
    model = load_model(path, digits)
    stated = STAGES["compress"]["figures"]["after"]
    assert model.count_params() == stated["params"]
    found = evaluate(model, digits.batches("validation", 256))
    assert found["accuracy"] == pytest.approx(stated["accuracy"], abs=1 / 289 + 1e-9)


def test_every_figure_of_the_readme_table_is_measured():
    readme = Path("README.md").read_text(encoding="utf-8")
    for row in STAGES["evaluate"]["figures"]["files"]:
        line = next(
            x for x in readme.splitlines() if x.startswith(f"| {row['name']} |")
        )
        assert f"{row['params']:,}" in line
        assert f"{row['macs']:,}" in line
        assert f"{row['bytes']:,}" in line
        assert f"{100 * row['accuracy']:.2f} %" in line
        assert f"{100 * row['agreement']:.2f} %" in line
        assert f"{row['latency']['median_ms']:.3f}" in line
