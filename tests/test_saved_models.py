"""The committed models are those of their report, and as good as it says."""

import itertools
import json
from pathlib import Path

import pytest

from pipelines.saved_models import BUDGETS, NETWORKS, to_index, to_markdown
from tfcompress.cost import model_cost
from tfcompress.data import load_dataset
from tfcompress.deploy import evaluate_tflite
from tfcompress.distill import evaluate
from tfcompress.files import content_hash, file_hash
from tfcompress.stages import load_model

FOLDER = Path("saved_models/digits")
FASHION = Path("saved_models/fashion_mnist")
CARDS = {path.stem: json.loads(path.read_text()) for path in FASHION.glob("*.json")}
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


@pytest.fixture(scope="module")
def fashion():
    return load_dataset("fashion_mnist")


def test_all_models_are_there_and_small():
    names = {f"{n}{b}" for n in NETWORKS for b in ("", *(f"_{b}" for b in BUDGETS))}
    assert set(CARDS) == names
    total = sum(path.stat().st_size for path in FASHION.iterdir())
    assert total < 10_000_000
    assert (FASHION / "README.md").read_text() == to_index(list(CARDS.values()))


def test_the_compressed_models_have_their_budget():
    for network, (name, share) in itertools.product(NETWORKS, BUDGETS.items()):
        card = CARDS[f"{network}_{name}"]
        assert card["macs"] <= share * card["macs_of_dense"]


@pytest.mark.parametrize("name", CARDS)
def test_fashion_mnist(name, fashion):
    """Slow (20,000 images a card): every file is as good as its card says."""
    card = CARDS[name]
    assert fashion.fingerprint == card["dataset"]["fingerprint"]
    test = fashion.batches("test", 500)
    tolerance = card["tolerance"]
    stated = {}
    for file, said in card["files"].items():
        path = FASHION / file
        assert file_hash(path) == said["sha256"]
        if path.suffix == ".tflite":
            assert path.stat().st_size == said["bytes"]
            found = evaluate_tflite(path, test, num_threads=2)
            stated[file] = said["accuracy"]
            assert found["accuracy"] == pytest.approx(said["accuracy"], abs=tolerance)
    float32 = stated[f"{name}_float32.tflite"]
    model = load_model(FASHION / f"{name}.keras", fashion)
    # As the file, and so on all images; through Keras they would take minutes.
    some = test.take(3)
    by_keras = evaluate(model, some)["accuracy"]
    by_file = evaluate_tflite(FASHION / f"{name}_float32.tflite", some)["accuracy"]
    assert by_keras == pytest.approx(by_file, abs=1 / 1500 + 1e-9)
    assert model.count_params() == card["params"]
    assert model_cost(model).macs == card["macs"]
    # Half a point at most is what integers may cost.
    assert stated[f"{name}_int8.tflite"] >= float32 - 0.005


@pytest.mark.parametrize("name", CARDS)
def test_the_page_of_a_card_says_what_the_card_does(name):
    assert (FASHION / f"{name}.md").read_text() == to_markdown(CARDS[name])


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
