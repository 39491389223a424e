"""The tables and plots of the distillation benchmarks, from made-up cells."""

import numpy as np
import pytest

from benchmarks import distillation_runs, distiller_step, patience
from benchmarks.cells import Cells


def test_labels_get_the_epochs_that_the_teacher_costs():
    # Three passes of a student of a quarter, and one of the teacher: 1.75 to 0.75.
    assert patience.label_epochs(30) == 70
    assert patience.label_epochs(3) == 7


def test_every_cell_of_patience_stands_once_and_short_ones_first():
    keys = patience.keys_of(2)
    lengths = sum(len(epochs) for epochs in patience.EPOCHS.values())
    assert len(keys) == len(set(keys)) == 2 * len(patience.MODES) * lengths
    places = [patience.EPOCHS[key[0]].index(key[2]) for key in keys]
    assert places == sorted(places)
    assert max(patience.EPOCHS["digits"]) >= 3000


def test_patience_is_told_and_drawn(tmp_path):
    keys = patience.keys_of(2)
    some = [key for key in keys if key[0] == "digits" and key[2] <= 100]
    cells = {
        Cells.name(key): {
            "accuracy": 0.9 + 0.02 * key[3],
            "kl": 0.1,
            "teacher_accuracy": 0.95,
        }
        for key in some
    }
    lines = patience.summarize(cells, keys)
    row = next(line for line in lines if line.startswith("consistent"))
    assert row.count("91.00 ± 1.00 [100]") == 2
    assert "teacher: 95.00 %" in lines
    assert not any("fashion" in line for line in lines)
    patience.plot(cells, keys, tmp_path / "patience.png")
    assert (tmp_path / "patience.png").stat().st_size > 10_000


@pytest.mark.parametrize("mode", patience.MODES)
def test_modes_differ_in_nothing_but_the_mode(mode):
    spec = patience.view_spec(mode)
    assert spec.mode == ("consistent" if mode == "labels" else mode)
    assert (spec.crop, spec.smallest_area) == ("inception", 0.25)


def test_distillation_runs_are_told():
    def cell(accuracy):
        return {
            "accuracy": accuracy,
            "agreement": 0.5,
            "teacher_accuracy": 0.9,
            "kl": 0.25,
        }

    keys = [("teachers", "both", 0), ("teachers", "both", 1)]
    keys += [("batch norm", "consistent", 0)]
    cells = {Cells.name(key): cell(0.8 + 0.02 * key[2]) for key in keys}
    cells[Cells.name(keys[2])]["after"] = cell(0.85)
    lines = distillation_runs.summarize(cells, keys)
    assert any("81.00 ± 1.00" in line for line in lines)
    before, after = (line for line in lines if "consistent" in line)
    assert "80.00 ± 0.00" in before and "85.00 ± 0.00" in after


def test_step_times_are_compared_repeat_by_repeat():
    times = {kind: [1.0, 2.0, 4.0] for kind in distiller_step.KINDS}
    times["ours"] = [0.5, 1.0, 3.0]
    result = {
        "pair": "digits",
        "jit": True,
        "ms": times,
        "memory": {"ours": 100.0, "keras": 200.0},
    }
    row = distiller_step.summarize([result])[2]
    assert row.split()[-4:] == ["0.50", "0.25", "100", "200"]


@pytest.mark.parametrize("kind", distiller_step.KINDS)
def test_every_kind_of_step_runs(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(distiller_step, "STEPS", 2)
    pair = next(iter(distiller_step.PAIRS))
    seconds = distiller_step.make(kind, pair, False, tmp_path / "weights")()
    assert np.isfinite(seconds) and seconds > 0.0
