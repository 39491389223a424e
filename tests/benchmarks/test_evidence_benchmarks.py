"""The short benchmarks that claims are tested by, at small scale."""

import numpy as np
import pytest

from benchmarks import (
    channel_alignment,
    evbmf_ranks,
    layer_errors,
    tasks,
    warm_start,
    weakened_rank,
)
from benchmarks.cells import Cells
from tfcompress.models import resnet


def test_planted_signals_stand_clear_of_the_noise():
    random = np.random.default_rng(0)
    matrix = evbmf_ranks.with_noise((40, 90), 5, 2.0, random)
    edge = np.sqrt(40) + np.sqrt(90)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values[4] > 1.9 * edge and values[5] < 1.1 * edge
    assert evbmf_ranks.planted((40, 90), 5, 2.0, 0) == {"planted": 5, "found": 5}


def test_a_cut_core_has_lost_its_noise():
    cell = evbmf_ranks.truncated(24, 4, 2.0, 0)
    assert cell["first"] == cell["kept"] == [4, 4]
    assert max(cell["again"]) < 4


def test_ranks_are_told():
    keys = [("planted", "8x9", 2, 2.0, seed) for seed in (0, 1)]
    keys += [("truncated", "8", 2, 2.0, 0)]
    cells = {Cells.name(key): {"planted": 2, "found": 2} for key in keys[:2]}
    cut = {"planted": 2, "first": [2, 2], "again": [0, 1], "kept": [2, 2]}
    cells[Cells.name(keys[2])] = cut
    lines = evbmf_ranks.summarize(cells, keys)
    assert any(line.split() == ["8x9", "2", "2.0", "2,", "2"] for line in lines)
    assert any("0.0 x 1.0" in line for line in lines)


def test_channels_are_timed_in_turn(monkeypatch):
    monkeypatch.setattr(channel_alignment, "CHANNELS", (31, 32))
    monkeypatch.setattr(channel_alignment, "PIXELS", 8)
    rows = channel_alignment.measure(1, runs=3)
    assert [row["channels"] for row in rows] == [31, 32]
    assert all(row["runs"] == 3 and row["q1_ms"] <= row["q3_ms"] for row in rows)
    lines = channel_alignment.report(rows)
    assert lines[3].startswith("1x1, 32 channels") and lines[3].endswith("1.00")


def test_errors_that_compare_only_within_a_layer():
    """Within each layer the error tells the order; across layers it is turned."""
    choices = [
        ["a", "T", 0.25, 0.4, 0.4, 0.04],
        ["a", "T", 0.50, 0.2, 0.2, 0.02],
        ["b", "T", 0.25, 0.3, 0.3, 0.08],
        ["b", "T", 0.50, 0.1, 0.1, 0.06],
    ]
    found = layer_errors.correlations(choices, "weights")
    assert found["across decompositions"] == 1.0
    assert found["across layers"] == -1.0
    assert found["all"] == pytest.approx(0.0)
    cells = {str(seed): {e: found for e in layer_errors.ERRORS} for seed in (0, 1)}
    assert "1.00 ± 0.00" in layer_errors.summarize(cells, [(0,), (1,)])[2]


def test_new_weights_are_new_and_of_the_same_layers():
    model = resnet((8, 8, 1), 10, depth=8, width=4, seed=0)
    before = model.get_weights()
    fresh = warm_start.with_new_weights(model, 1)
    assert [w.shape for w in fresh.weights] == [w.shape for w in model.weights]
    kernels = zip(model.trainable_weights, fresh.trainable_weights, strict=True)
    assert not any(np.allclose(a, b) for a, b in kernels if len(a.shape) > 1)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_grids_are_told():
    cell = {"accuracy": 0.9, "accuracy_before": 0.95, "kl": 0.1, "macs": 0.25}
    keys = warm_start.keys_of(2)
    assert len(keys) == len(set(keys)) == 4 * len(warm_start.EPOCHS)
    lines = warm_start.summarize({Cells.name(key): cell for key in keys}, keys)
    assert any(line.startswith("factorized") and "90.00" in line for line in lines)
    keys = [(width, "extreme", 0) for width in weakened_rank.WIDTHS]
    lines = weakened_rank.summarize({Cells.name(key): cell for key in keys}, keys)
    assert any("+5.00 ± 0.00 [100]" in line for line in lines)


@pytest.mark.parametrize("mode, verdict", [("max", "LOST"), ("min", "kept")])
def test_a_task_keeps_its_metric_or_not(mode, verdict):
    def row(name, value):
        latency = {"median_ms": 1.0}
        return {"name": name, "m": value, "macs": 3, "bytes": 4, "latency": latency}

    files = [
        row("teacher float32", 0.9),
        row("compressed float32", 0.8),
        row("compressed int8", 0.85),
    ]
    report = {
        "metric": {"key": "m", "label": "M", "mode": mode, "share": False},
        "stages": [
            {"stage": "compress", "figures": {"target_met": True}},
            {"stage": "evaluate", "figures": {"files": files}},
        ],
    }
    cell = tasks.cell_of(report)
    lines = tasks.summarize({"detection | 0": cell}, tasks.keys_of(1))
    assert lines[2].startswith("detection (M)") and "0.8000" in lines[2]
    assert verdict in lines[2] and ("+11.11" in lines[2]) == (mode == "min")
