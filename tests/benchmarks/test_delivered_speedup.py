"""The benchmark of delivered speedups, on a network of two layers."""

import json

import keras
import pytest

from benchmarks import delivered_speedup as benchmark
from benchmarks.common import write_result
from tfcompress.cost import layer_specs
from tfcompress.ranks import SELECTORS, Budget


def tiny():
    return keras.Sequential(
        [
            keras.Input((12, 12, 16)),
            keras.layers.Conv2D(32, 3, padding="same", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(24, name="dense"),
        ]
    )


def test_figures_agree_with_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "NETWORKS", {"tiny": tiny})
    (one,) = benchmark.run(
        ["tiny"],
        ["fixed"],
        macs=0.25,
        threads=[1],
        runs=3,
        cache=tmp_path / "cache.json",
    )
    assert one["met"] and one["mac_ratio"] >= 4.0
    speedup = one["dense"]["median_ms"] / one["factorized"]["median_ms"]
    assert one["delivered"] == pytest.approx(speedup / one["mac_ratio"])
    rows = {row["layer"]: row for row in one["layers"]}
    assert set(rows) == {"conv", "dense"}
    lost = [row["lost_ms"] for row in one["layers"]]
    assert lost == sorted(lost, reverse=True)
    for row in rows.values():
        promised = row["dense_ms"] / row["mac_ratio"]
        assert row["delivered"] == pytest.approx(promised / row["factorized_ms"])
        assert row["lost_ms"] == pytest.approx(row["factorized_ms"] - promised)
    total = sum(row["dense_ms"] for row in rows.values())
    assert one["sums"]["dense"]["layers_ms"] == pytest.approx(total)
    write_result(benchmark.NAME, [one], benchmark.report([one]), folder=tmp_path)
    written = json.loads((tmp_path / "delivered_speedup.json").read_text())
    assert written["data"] == [one]
    page = (tmp_path / "delivered_speedup.md").read_text()
    assert "Tucker2Conv2D" in page and "tiny, 1 thread: 2 layers" in page


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_every_selector_can_be_named(name):
    specs = layer_specs(tiny())
    plan = benchmark.plan_for(name, specs, Budget(macs=0.25))
    # Random kernels are noise to EVBMF: it may miss the budget, and says so.
    assert plan.met or name == "vbmf"


def test_the_fixed_fraction_is_the_largest_that_fits():
    specs = layer_specs(tiny())
    plan = benchmark.fixed_fraction(specs, Budget(macs=0.25))
    assert plan.met and plan.after.macs > 0.15 * plan.dense.macs
    assert not benchmark.fixed_fraction(specs, Budget(macs=1e-6)).met
