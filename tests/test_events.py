"""TensorBoard's files: what it reads in a run folder; results do not change."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_multiplexer import (
    EventMultiplexer,
)
from tensorboard.util import tensor_util

from tfcompress import runner
from tfcompress.events import stage_events
from tfcompress.recipe import parse_recipe
from tfcompress.report import without_times
from tfcompress.runner import run_recipe

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 0, "hidden": 32}
RECIPE = {
    "dataset": "digits",
    "stages": [
        {"teacher": {"network": NETWORK, "epochs": 3}},
        {
            "compress": {
                "target": {"macs": 0.7},
                "max_drop": 1.0,
                "rounds": 2,
                "epochs": 2,
            }
        },
    ],
}


def read(folder):
    """What `tensorboard --logdir` shows: {run: {tag: {step: value}}}."""
    found = EventMultiplexer().AddRunsFromDirectory(str(folder))
    found.Reload()
    return {
        run: {
            tag: {
                event.step: tensor_util.make_ndarray(event.tensor_proto)
                for event in found.Tensors(run, tag)
            }
            for tag in tags["tensors"]
        }
        for run, tags in found.Runs().items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events") / "run"
    return folder, run_recipe(parse_recipe(RECIPE), folder)


def test_tensorboard_shows_curves_ranks_and_views(run):
    folder, report = run
    shown = read(folder)
    assert set(shown) == {"tensorboard/01-teacher", "tensorboard/02-compress"}
    teacher, compress = (shown[key] for key in sorted(shown))
    figures = {one["stage"]: one["figures"] for one in report["stages"]}
    losses = figures["teacher"]["history"]["loss"]
    assert list(teacher["training/loss"]) == [1, 2, 3]
    np.testing.assert_allclose(list(teacher["training/loss"].values()), losses)
    agreement = compress["training/agreement"]
    assert list(agreement) == [1, 2, 3, 4]
    curves = [entry["history"]["agreement"] for entry in figures["compress"]["rounds"]]
    np.testing.assert_allclose(list(agreement.values()), np.concatenate(curves))
    for row in figures["compress"]["layers"]:
        for index, rank in enumerate(row["ranks"] or [], start=1):
            assert compress[f"ranks/{row['name']}/{index}"][2] == rank
    assert set(compress["rounds/macs_share"]) == {1, 2}
    for stage, names in ((teacher, 2), (compress, 3)):
        views = [tag for tag in stage if tag.startswith("views/")]
        assert len(views) == names
        for tag in views:
            width, height, *images = stage[tag][0]
            assert (width, height) == (b"8", b"8") and len(images) == 8
            assert Image.open(io.BytesIO(images[0])).size == (8, 8)
    # Consistent views: both networks see the same.
    pair = [list(compress[f"views/{name}"][0]) for name in ("student", "teacher")]
    assert pair[0] == pair[1]


def test_the_report_has_curves_and_sensitivity_of_the_rounds(run):
    compress = run[1]["stages"][1]["figures"]
    for entry in compress["rounds"]:
        assert len(entry["history"]["kl"]) == 2
        assert set(entry["sensitivity"]) >= set(entry["ranks"])
        assert all(value >= 0 for value in entry["sensitivity"].values())


class NoEvents:
    def progress(self, *_):
        pass

    figures = views = progress


def test_a_run_without_them_ends_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        runner, "stage_events", lambda *_, **__: contextlib.nullcontext(NoEvents())
    )
    again = run_recipe(parse_recipe(RECIPE), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert without_times(again) == without_times(run[1])


def test_a_resumed_stage_adds_to_what_it_wrote_and_a_new_one_begins_anew(tmp_path):
    folder = tmp_path / "tensorboard" / "01-teacher"
    for step, resumed in ((1, False), (2, True)):
        with stage_events(folder, resumed=resumed) as events:
            events.progress(step, {"loss": 0.5})
            events.progress(step + 0.5, {"loss": 9.0})
    (stage,) = read(tmp_path).values()
    assert stage["training/loss"] == {1: 0.5, 2: 0.5}
    with stage_events(folder, resumed=False) as events:
        events.progress(3, {"loss": 0.25})
    (stage,) = read(tmp_path).values()
    assert stage["training/loss"] == {3: 0.25}
