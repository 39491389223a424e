"""Runs: report, resume after SIGKILL, determinism, and folders that do not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tfcompress.errors import ModelFileError, RunFolderError, TfcompressError
from tfcompress.recipe import load_recipe, parse_recipe
from tfcompress.report import without_times
from tfcompress.runner import run_recipe

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 1, "width": 8, "hidden": 16}
PERCEPTRON = {"network": "vgg", "blocks": 0, "hidden": 32}

# As small as it can be with every stage in it.
TINY = {
    "name": "tiny",
    "dataset": "digits",
    "seed": 5,
    "stages": [
        {"teacher": {"network": PERCEPTRON, "steps": 40}},
        {
            "distill": {
                "student": NETWORK,
                "steps": 40,
                "views": {"crop": "mild"},
            }
        },
        {
            "compress": {
                "target": {"macs": 0.7},
                "max_drop": 1.0,
                "rounds": 2,
                "steps": 16,
                "calibration_steps": 2,
            }
        },
        {"export_tflite": {"quantization": ["float32", "int8"], "calibration": 32}},
        {"evaluate": {"latency_runs": 5, "warmup": 1}},
    ],
}


def command(recipe: Path, folder: Path) -> subprocess.Popen:
    code = "from tfcompress.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", str(recipe), "-o", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def test_killed_in_every_stage_a_run_ends_with_the_same_report(tmp_path):
    """Slow (two whole runs and five kills), and the only proof of resuming."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    # What is killed needs a process of its own, this one does not.
    run_recipe(load_recipe(recipe), straight)

    for index, entry in enumerate(TINY["stages"], start=1):
        partial = killed / f"{index:02d}-{next(iter(entry))}.partial"
        process = command(recipe, killed)
        deadline = time.monotonic() + 200
        while not partial.exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert partial.exists()
        assert not partial.with_suffix("").exists()
        assert not (killed / "report.json").exists()
    finish(command(recipe, killed))

    reports = [
        json.loads((folder / "report.json").read_text())
        for folder in (straight, killed)
    ]
    assert without_times(reports[0]) == without_times(reports[1])
    # The hashes in it are of the model files: the networks are equal bit for bit.
    hashes = reports[0]["stages"][2]["hashes"]
    assert set(hashes) == {"compressed"}
    assert not list(killed.glob("*.partial"))
    check_report(reports[0], straight)


def check_report(report: dict, folder: Path) -> None:
    """Everything the report promises is there, and true of the files."""
    names = [stage["stage"] for stage in report["stages"]]
    assert names == ["teacher", "distill", "compress", "export_tflite", "evaluate"]
    figures = {stage["stage"]: stage["figures"] for stage in report["stages"]}
    for stage in ("distill", "compress"):
        for side in ("before", "after"):
            keys = {"params", "macs", "bytes", "accuracy", "agreement"}
            assert keys <= set(figures[stage][side])
    compress = figures["compress"]
    assert compress["target_met"]
    assert compress["after"]["macs"] <= 0.7 * compress["before"]["macs"]
    assert len(compress["rounds"]) == 2
    for layer in compress["layers"]:
        assert (layer["ranks"] is None) != (layer["reason"] is None), layer
    names = [layer["name"] for layer in compress["layers"]]
    assert len(names) == len(set(names))

    files = {row["name"]: row for row in figures["evaluate"]["files"]}
    assert set(files) == {
        "teacher float32",
        "student float32",
        "compressed float32",
        "compressed int8",
    }
    for row in files.values():
        path = next(folder.glob(f"*/{row['file']}"))
        assert path.stat().st_size == row["bytes"]
        assert row["samples"] == 359
        assert 0 < row["latency"]["q1_ms"] <= row["latency"]["q3_ms"]
    assert files["teacher float32"]["agreement"] == 1.0
    assert files["compressed float32"]["agreement_with_keras"] == 1.0
    assert files["compressed float32"]["max_abs_difference_to_keras"] < 1e-3
    assert files["compressed int8"]["bytes"] < files["compressed float32"]["bytes"]

    text = (folder / "report.md").read_text()
    for word in ("compressed int8", "block1_2_conv", "latency", "agreement"):
        assert word in text


def short_recipe(**options):
    data = {
        "name": "short",
        "dataset": "digits",
        "stages": [{"teacher": {"network": PERCEPTRON, "steps": 1}}],
    }
    return parse_recipe({**data, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "short"
    run_recipe(short_recipe(), folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_finished_run_is_kept_as_it_is(finished):
    before = snapshot(finished)
    run_recipe(short_recipe(), finished)
    assert snapshot(finished) == before


def test_a_run_folder_of_another_recipe_is_refused(finished):
    before = snapshot(finished)
    with pytest.raises(RunFolderError, match="belongs to another recipe"):
        run_recipe(short_recipe(seed=1), finished)
    assert snapshot(finished) == before


def test_a_damaged_artefact_is_made_again(finished):
    model = finished / "01-teacher" / "teacher.keras"
    good = json.loads((finished / "report.json").read_text())["stages"][0]["hashes"]
    model.write_bytes(model.read_bytes()[:-10])
    report = run_recipe(short_recipe(), finished)
    assert report["stages"][0]["hashes"] == good


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty and no run folder"):
        run_recipe(short_recipe(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_as_run_folder_is_refused(tmp_path):
    place = tmp_path / "file"
    place.write_text("mine")
    for folder in (place, place / "below"):
        with pytest.raises(RunFolderError):
            run_recipe(short_recipe(), folder)
    assert place.read_text() == "mine"


def test_two_runs_in_one_folder_do_not_meet(tmp_path):
    from filelock import FileLock

    folder = tmp_path / "run"
    folder.mkdir()
    with (
        FileLock(folder / ".lock"),
        pytest.raises(RunFolderError, match="in use by another run"),
    ):
        run_recipe(short_recipe(), folder)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dataset": "no_such_dataset"}, TfcompressError),
        (
            {"stages": [{"teacher": {"network": {"load": "none.keras"}}}]},
            ModelFileError,
        ),
        (
            {
                "stages": [
                    {"teacher": {"steps": 1}},
                    {"compress": {"options": {"treshold": 0.5}}},
                ]
            },
            TfcompressError,
        ),
    ],
)
def test_what_is_wrong_from_the_start_writes_nothing(tmp_path, options, error):
    folder = tmp_path / "run"
    with pytest.raises(error) as raised:
        run_recipe(short_recipe(**options), folder)
    assert "\n" not in str(raised.value)
    assert not folder.exists()


def test_a_teacher_for_other_classes_writes_nothing(tmp_path):
    from tfcompress.models import vgg

    path = tmp_path / "seven.keras"
    vgg((8, 8, 1), 7, blocks=1, width=4, hidden=8).save(path)
    recipe = short_recipe(stages=[{"teacher": {"network": {"load": str(path)}}}])
    with pytest.raises(ModelFileError, match="has 10 classes"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loaded_teacher_is_taken_as_it_is(tmp_path):
    import keras
    import numpy as np

    from tfcompress.models import vgg

    path = tmp_path / "mine.keras"
    mine = vgg((8, 8, 1), 10, blocks=1, width=4, hidden=8, seed=9)
    mine.save(path)
    before = path.read_bytes()
    recipe = short_recipe(stages=[{"teacher": {"network": {"load": str(path)}}}])
    run_recipe(recipe, tmp_path / "run")
    assert path.read_bytes() == before
    kept = keras.models.load_model(tmp_path / "run" / "01-teacher" / "teacher.keras")
    for a, b in zip(mine.weights, kept.weights, strict=True):
        np.testing.assert_array_equal(a, b)
