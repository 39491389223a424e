"""A training stage that is stopped goes on from its checkpoint."""

import json

import keras
import numpy as np
import pytest

from tfcompress.distill.checkpoint import Checkpoint
from tfcompress.recipe import parse_recipe
from tfcompress.runner import run_recipe

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 1, "width": 4, "hidden": 16}
RECIPE = {
    "dataset": "digits",
    "stages": [
        {"teacher": {"network": NETWORK, "epochs": 4}},
        {"distill": {"student": NETWORK, "epochs": 4}},
    ],
}


class Killed(BaseException):
    """Not an error that anything could handle."""


class Display:
    """Counts epochs, and stops the run within the given stage."""

    def __init__(self, stop_in=None):
        self.stage, self.stop_in, self.seen = None, stop_in, {}

    def start(self, index, count, name, *, done):
        self.stage = name

    def update(self, done, total, figures):
        self.seen.setdefault(self.stage, []).append(done)
        if self.stage == self.stop_in and done == 3:
            raise Killed

    def finish(self, name, seconds):
        pass


def test_a_stopped_stage_ends_with_the_same_weights(tmp_path, monkeypatch):
    """Each of the two stages is stopped once, in one run."""
    recipe = parse_recipe(RECIPE)
    run_recipe(recipe, tmp_path / "straight", display=Display())
    monkeypatch.setattr(
        Checkpoint.__init__, "__kwdefaults__", {"seconds": 0.0, "history": None}
    )
    stopped = tmp_path / "stopped"
    displays = [Display("teacher"), Display("distill"), Display()]
    for place, display in zip(("01-teacher", "02-distill"), displays, strict=False):
        with pytest.raises(Killed):
            run_recipe(recipe, stopped, display=display)
        assert (stopped / f"{place}.partial" / "checkpoint.npz").exists()
    run_recipe(recipe, stopped, display=displays[-1])
    # Epochs one and two were done: they are not run again.
    for stage, display in zip(("teacher", "distill"), displays[1:], strict=True):
        assert min(display.seen[stage]) > 2
    assert "teacher" not in displays[-1].seen
    for name in ("01-teacher/teacher.keras", "02-distill/student.keras"):
        models = [
            keras.models.load_model(tmp_path / run / name)
            for run in ("straight", "stopped")
        ]
        for a, b in zip(models[0].weights, models[1].weights, strict=True):
            np.testing.assert_array_equal(a, b)
    curves = [
        json.loads((tmp_path / run / "02-distill" / "result.json").read_text())[
            "figures"
        ]["history"]
        for run in ("straight", "stopped")
    ]
    assert curves[0] == curves[1]
    assert not list(tmp_path.rglob("checkpoint.npz"))
    assert not list(tmp_path.rglob("stage.key"))


def test_what_another_stage_left_is_not_gone_on_from(tmp_path):
    from tfcompress.runner import _is_of

    assert not _is_of(tmp_path, "key")
    (tmp_path / "stage.key").write_text("key")
    assert _is_of(tmp_path, "key")
    assert not _is_of(tmp_path, "another")
