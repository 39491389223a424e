"""Files compared in one run: ratios, intervals, verdicts."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tfcompress.deploy import ModelInputError, compare_latency, export_tflite
from tfcompress.deploy.comparison import Compared, Comparison, _ratio

L = keras.layers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for name, width in (("small", 8), ("large", 96)):
        model = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                L.Conv2D(width, 3, activation="relu"),
                L.Conv2D(width, 3, activation="relu"),
                L.GlobalAveragePooling2D(),
                L.Dense(4),
            ]
        )
        made[name] = export_tflite(model, folder / f"{name}.tflite")
    return made


def test_the_larger_file_is_slower_in_every_setting(files):
    found = compare_latency(files, threads=(1, 2), xnnpack=(True, False), runs=8)
    assert len(found.rows) == 8 and not found.noisy
    for small, large in zip(found.rows[::2], found.rows[1::2], strict=True):
        assert (small.name, large.name) == ("small", "large")
        assert (small.num_threads, small.xnnpack) == (large.num_threads, large.xnnpack)
        assert (small.ratio, small.low, small.high, small.verdict) == (1, 1, 1, "")
        assert large.low <= large.ratio <= large.high
        assert large.verdict == "slower" and large.ratio > 3.0
        assert large.q1_ms <= large.median_ms <= large.q3_ms <= large.p90_ms
        assert large.memory_mb > small.memory_mb >= 0.0
    again = json.loads(json.dumps(found.to_dict()))
    assert again["rows"][1]["verdict"] == "slower" and again["cpu"]


def test_rounds_are_counted(files):
    counts = []
    found = compare_latency(
        files, runs=3, warmup=0, memory=False, progress=lambda *x: counts.append(x)
    )
    assert counts == [(1, 3), (2, 3), (3, 3)]
    assert found.rows[0].memory_mb is None


def test_ratios_within_rounds_do_not_mind_drift():
    """The machine gets ten times slower: the ratio is what it was."""
    random = np.random.default_rng(0)
    drift = np.geomspace(1.0, 10.0, 60)
    base = drift * random.uniform(0.98, 1.02, 60)
    other = 1.5 * drift * random.uniform(0.98, 1.02, 60)
    ratio, low, high = _ratio(other, base, random)
    assert 1.45 < low <= ratio <= high < 1.55


ROW = Compared("a", 1, True, 1.0, 1.0, 1.0, 1.0, 1.0, None, 1.0, 0.99, 1.01)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.9, "faster"),
        (1.1, 1.3, "slower"),
        (0.97, 1.02, "no difference"),
        (0.7, 1.4, "too noisy to tell"),
    ],
)
def test_verdicts(low, high, verdict):
    row = dataclasses.replace(ROW, low=low, high=high)
    assert row.verdict == verdict
    found = Comparison((ROW, row), "cpu", 10)
    assert found.noisy == (verdict == "too noisy to tell")


def test_bad_options(files):
    for options in ({"runs": 0}, {"threads": (0,)}, {"warmup": -1}, {"threads": ()}):
        with pytest.raises(ModelInputError, match="Received: "):
            compare_latency(files, **options)
