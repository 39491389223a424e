"""The comparison with peers: its methods on a tiny network, its table and its plot."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import peers
from benchmarks.cells import Cells
from benchmarks.peer_methods import METHODS, Trial
from tfcompress import models
from tfcompress.cost import model_cost
from tfcompress.deploy import export_tflite
from tfcompress.ranks import Budget


class TinyData:
    """Two batches of noise in the place of a `Dataset`."""

    sizes = {"train": 256}

    def batches(self, split, batch_size, *, shuffle_seed=None, repeat=False):
        random = np.random.default_rng(0)
        images = random.random((256, 12, 12, 1)).astype("float32")
        labels = random.integers(0, 4, 256).astype("int32")
        data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
        return data.repeat() if repeat else data


def trial(model, file, **options):
    options = {"epochs": 1, "seed": 0, "gzip_bytes": None, **options}
    return Trial(model, TinyData(), Budget(macs=0.4), file=file, **options)


@pytest.mark.parametrize("method", ["uniform ranks", "tensorly-torch", "torch-pruning"])
def test_methods_meet_the_budget_and_train(method, tmp_path):
    model = models.vgg((12, 12, 1), 4, width=16, blocks=2, hidden=16)
    before = model.get_weights()
    small = METHODS[method](trial(model, tmp_path / "none"))
    share = model_cost(small).macs / model_cost(model).macs
    assert 0.2 < share <= 0.4
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    file = export_tflite(model, tmp_path / "dense.tflite")
    files = {"dense": file, "small": export_tflite(small, tmp_path / "small.tflite")}
    figures = peers._of_files(files, TinyData())
    assert figures["bytes"] < figures["dense_bytes"]
    assert figures["gzip_bytes"] < figures["dense_gzip_bytes"]
    times = figures["latency_ms"]
    ratio = times["small"]["median_ms"] / times["dense"]["median_ms"]
    assert figures["latency"] == pytest.approx(ratio)


def test_tfmot_needs_the_size_to_aim_at():
    model = models.vgg((12, 12, 1), 4, width=4, blocks=2, hidden=4)
    with pytest.raises(SystemExit, match="run that cell first"):
        METHODS["tfmot pruning"](trial(model, Path("none")))


def cell(accuracy, **changes):
    return {
        "accuracy_before": 0.9,
        "accuracy": accuracy,
        "macs": 0.5,
        "nonzero": 0.4,
        "target_met": True,
        "gzip_bytes": 51200,
        "dense_gzip_bytes": 102400,
        "latency": 0.6,
        **changes,
    }


def test_the_table_tells_losses_sizes_and_missed_budgets(tmp_path):
    keys = [
        ("vgg", 0.5, method, seed) for method in [*METHODS][:3] for seed in range(2)
    ]
    keys += [("vgg", 0.5, "tfmot pruning", 0), ("resnet", 0.25, "tfcompress", 0)]
    cells = {Cells.name(key): cell(0.88 + 0.01 * key[3]) for key in keys[:-2]}
    cells[Cells.name(keys[2])] = cell(0.8, target_met=False)
    cells[Cells.name(keys[-2])] = cell(0.85, macs=1.0, target_met=False)
    lines = peers.summarize(cells, keys)
    text = "\n".join(lines)
    (ours,) = [line for line in lines if line.startswith("tfcompress ")]
    wanted = ["tfcompress", "+1.50", "±", "0.50", "2", "0.500", "0.400", "50", "0.500"]
    assert ours.split() == [*wanted, "0.600"]
    assert "uniform ranks (budget missed)" in text
    assert "tensorly-torch " in text and "torch-pruning  " not in text
    # It has no MACs to save: that is no miss.
    assert "tfmot pruning  " in text and "pruning (budget" not in text
    assert "vgg before: 90.00 %" in text and "resnet" not in text.split("Points")[0]
    peers.plot(cells, keys, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 1000
