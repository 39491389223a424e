"""Latency: interleaved, plausible, and plain data in the end."""

import json
import time

import keras
import numpy as np
import pytest

from tfcompress.deploy import Latency, ModelInputError, export_tflite, measure_latency
from tfcompress.deploy import latency as latency_module
from tfcompress.deploy.latency import steadiest_clock


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    paths = {}
    for name, width in (("small", 4), ("large", 96)):
        image = keras.Input((48, 48, 3), name="image")
        x = keras.layers.Conv2D(width, 3, padding="same")(image)
        x = keras.layers.Conv2D(width, 3, padding="same")(x)
        model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
        paths[name] = export_tflite(model, folder / f"{name}.tflite")
    paths["int8"] = export_tflite(
        model,
        folder / "int8.tflite",
        quantization="int8",
        calibration=[np.random.default_rng(0).normal(size=(4, 48, 48, 3))],
        io_dtype="int8",
    )
    return paths


def test_quantiles_are_ordered_and_the_larger_model_is_slower(files):
    result = measure_latency(files, runs=15, warmup=3)
    assert list(result) == list(files)
    for latency in result.values():
        assert 0 < latency.q1_ms <= latency.median_ms <= latency.q3_ms
        assert latency.q3_ms <= latency.p90_ms and latency.cold_ms > 0
        assert (latency.runs, latency.num_threads, latency.batch_size) == (15, 1, 1)
    # 500 times the multiplications: a wide margin, whatever the machine does.
    assert result["large"].median_ms > 3 * result["small"].median_ms


def test_fast_models_run_several_times_per_sample(files):
    fast = measure_latency([files["small"]], runs=3)["small.tflite"]
    assert fast.invokes > 1
    assert fast.invokes * fast.median_ms > 0.3


def test_files_are_measured_in_turn(files, monkeypatch):
    order = []
    timer = latency_module._time

    def recording(interpreter, *args):
        order.append(id(interpreter))
        return timer(interpreter, *args)

    monkeypatch.setattr(latency_module, "_time", recording)
    measure_latency(files, runs=6, warmup=1)
    rounds = np.reshape(order[-18:], (6, 3))
    assert all(len(set(row)) == 3 for row in rounds.tolist())
    assert len({tuple(row) for row in rounds.tolist()}) > 1


def test_processor_time_leaves_out_the_waiting(files, monkeypatch):
    def waiting(interpreter, invokes, now):
        start = now()
        for _ in range(invokes):
            interpreter.invoke()
            time.sleep(0.02)
        return (now() - start) / invokes

    monkeypatch.setattr(latency_module, "_time", waiting)
    options = {"runs": 5, "warmup": 2}
    elapsed = measure_latency({"a": files["small"]}, **options)["a"]
    processor = measure_latency({"a": files["small"]}, **options, clock="cpu")["a"]
    assert elapsed.q1_ms >= 20
    assert 0 < processor.median_ms < 10


def test_the_clock_must_fit_the_threads(files):
    assert steadiest_clock(1) in ("cpu", "elapsed")
    assert steadiest_clock(2) == "elapsed"
    for options in ({"clock": "wall"}, {"clock": "cpu", "num_threads": 2}):
        with pytest.raises(ModelInputError, match="clock.*one thread"):
            measure_latency(files, runs=1, **options)


def test_batches_and_names(files, tmp_path):
    copy = tmp_path / "small.tflite"
    copy.write_bytes(files["small"].read_bytes())
    result = measure_latency([files["small"], copy], runs=2, warmup=0, batch_size=4)
    assert set(result) == {str(files["small"]), str(copy)}
    assert {latency.batch_size for latency in result.values()} == {4}
    assert list(measure_latency(str(copy), runs=1, warmup=0)) == ["small.tflite"]


def test_result_is_plain_data(files):
    latency = measure_latency({"a": files["small"]}, runs=2, warmup=0)["a"]
    assert Latency(**json.loads(json.dumps(latency.to_dict()))) == latency


@pytest.mark.parametrize(
    "options", [{"runs": 0}, {"warmup": -1}, {"num_threads": 0}, {"batch_size": 0}]
)
def test_options_out_of_range(options, files):
    (pair,) = options.items()
    with pytest.raises(ModelInputError, match="Received: {}={}".format(*pair)):
        measure_latency(files, **options)


def test_models_without_a_size_to_measure(tmp_path):
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    free = export_tflite(model, tmp_path / "free.tflite")
    fixed = export_tflite(model, tmp_path / "fixed.tflite", input_shapes=(2, 8, 8, 3))
    with pytest.raises(ModelInputError, match="input_shapes"):
        measure_latency(free)
    with pytest.raises(ModelInputError, match="input_shapes"):
        measure_latency(fixed)
    assert measure_latency(fixed, runs=1, batch_size=2)["fixed.tflite"].batch_size == 2
    with pytest.raises(ModelInputError, match="no file"):
        measure_latency([])
