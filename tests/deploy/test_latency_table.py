"""Times of single layers: of the right shapes, kept, comparable, and adding up."""

import dataclasses
import gc
import json
import logging

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.cost import layer_specs
from tfcompress.deploy import (
    LatencyError,
    LatencyTable,
    export_tflite,
    latency_cache,
    latency_table,
    measure_latency,
)
from tfcompress.deploy.latency import Latency, steadiest_clock
from tfcompress.deploy.latency_table import LatencyCheck
from tfcompress.errors import OptionError, RankError
from tfcompress.surgery import factorize


@pytest.fixture(scope="module")
def network():
    """A shared layer, two layers of one shape, and a heavy one."""
    inputs = keras.Input((28, 28, 8), name="image")
    shared = layers.Conv2D(8, 3, padding="same", activation="relu", name="shared")
    x = shared(shared(inputs))
    x = layers.Conv2D(16, 1, name="left")(x) + layers.Conv2D(16, 1, name="right")(x)
    x = layers.Conv2D(128, 3, padding="same", use_bias=False, name="heavy1")(x)
    x = layers.Conv2D(128, 3, padding="same", use_bias=False, name="heavy2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="network")


@pytest.fixture(scope="module")
def specs(network):
    return {spec.name: spec for spec in layer_specs(network)}


@pytest.fixture(scope="module")
def table():
    return LatencyTable(runs=9)


@pytest.fixture
def stopwatch(monkeypatch):
    """Instead of exporting and measuring: one millisecond per file, times `slowness`.

    A file of a stopwatch has 1000 bytes.
    """

    class Stopwatch:
        slowness = 1.0

        def __init__(self):
            self.sessions = []

        def __call__(self, paths, *, runs, num_threads, **options):
            self.sessions.append(list(paths))
            ms = self.slowness
            one = Latency(ms, 0.9 * ms, 1.1 * ms, 2 * ms, 9 * ms, runs, 1, 1, 1)
            return dict.fromkeys(paths, one)

    def export(single, path, *, seed):
        single.model(seed)
        path.write_bytes(bytes(1000))
        return path

    watch = Stopwatch()
    monkeypatch.setattr(latency_table, "measure_latency", watch)
    monkeypatch.setattr(latency_table, "export_single", export)
    return watch


def key_of(layer, shape, *type_and_ranks):
    model = keras.Sequential([keras.Input(shape), layer])
    (single,) = latency_table.single_layers(layer_specs(model)[0], *type_and_ranks)
    return single.key


def test_only_what_decides_the_time_is_in_the_key():
    plain = key_of(layers.Conv2D(8, 3), (12, 12, 4))
    assert plain == key_of(
        layers.Conv2D(
            8,
            (3, 3),
            strides=(1, 1),
            name="other",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(1e-4),
            trainable=False,
        ),
        (12, 12, 4),
    )
    others = [
        key_of(layers.Conv2D(8, 3, **options), (12, 12, 4))
        for options in (
            {"strides": 2},
            {"padding": "same"},
            {"dilation_rate": 2},
            {"groups": 2},
            {"use_bias": False},
            {"activation": "relu"},
        )
    ]
    others += [
        key_of(layers.Conv2D(9, 3), (12, 12, 4)),
        key_of(layers.Conv2D(8, 1), (12, 12, 4)),
        key_of(layers.Conv2D(8, 3), (12, 13, 4)),
        key_of(layers.DepthwiseConv2D(3), (12, 12, 4)),
        key_of(layers.Conv2D(8, 3), (12, 12, 4), "Tucker2Conv2D", (2, 3)),
        key_of(layers.Conv2D(8, 3), (12, 12, 4), "Tucker2Conv2D", (3, 2)),
        key_of(layers.Conv2D(8, 3), (12, 12, 4), "SpatialSVDConv2D", 2),
    ]
    assert len({plain, *others}) == 1 + len(others)


def test_a_factorized_layer_shares_the_entry_it_was_planned_with(network, specs):
    choices = {
        "shared": ("Tucker2Conv2D", (4, 6)),
        "heavy1": ("SpatialSVDConv2D", (5,)),
        "left": ("ChannelSVDConv2D", (3,)),
        "logits": ("FactorizedDense", (4,)),
    }
    for spec in layer_specs(factorize(network, choices)):
        if spec.name in choices:
            planned = latency_table.single_layers(specs[spec.name], *choices[spec.name])
            assert latency_table.single_layers(spec) == planned
        if spec.cost.macs:
            stock = latency_table.single_layers(specs[spec.name])
            assert latency_table.stock_layers(spec) == stock


def test_the_single_model_is_the_layer(specs):
    (single,) = latency_table.single_layers(specs["heavy2"], "Tucker2Conv2D", (8, 12))
    model = single.model(seed=3)
    (layer,) = (x for x in model.layers if x.weights)
    shapes = [tuple(w.shape) for w in layer.weights]
    assert shapes == [(1, 1, 128, 8), (3, 3, 8, 12), (1, 1, 12, 128)]
    assert model.input_shape == model.output_shape == (None, 28, 28, 128)
    for a, b in zip(model.weights, single.model(seed=3).weights, strict=True):
        np.testing.assert_array_equal(a, b)
    (shared, again) = latency_table.single_layers(specs["shared"])
    assert shared == again
    assert shared.model(0).layers[-1].activation is keras.activations.relu


def test_times_are_those_of_the_layers(table, specs):
    heavy, light = specs["heavy2"], specs["left"]
    before = [w.copy() for w in heavy.layer.get_weights()]
    # Else measuring leaves the collector alone, for somebody has frozen it.
    gc.unfreeze()
    table.measure(
        [(heavy, None, None), (light, None, None), (heavy, "Tucker2Conv2D", (24, 24))]
    )
    for entry in table.entries.values():
        assert 0 < entry.q1_ms <= entry.median_ms <= entry.q3_ms
        assert entry.reference_ms > 0 and entry.runs == 9
    # 1150 and 13 times the multiplications: wide margins, whatever the machine does.
    assert table.of(heavy) > 10 * table.of(light)
    assert table.of(heavy) > 2 * table.of(heavy, "Tucker2Conv2D", (24, 24))
    for old, new in zip(before, heavy.layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert gc.get_freeze_count() == 0


def test_what_the_table_calls_faster_is_faster(table, network, specs, tmp_path):
    """The claims a budget rests on, held against real files."""
    choices = {"heavy2": ("Tucker2Conv2D", (24, 24))}
    small = factorize(network, choices)
    dense, after = table.check(network), table.check(small)
    predicted = dense.whole_ms - table.of(specs["heavy2"])
    predicted += table.of(specs["heavy2"], *choices["heavy2"])
    assert predicted < 0.8 * dense.whole_ms
    # Half is far beyond what noise does.
    assert abs(dense.gap) < 0.5 and abs(after.gap) < 0.5
    assert dense.layers == after.layers == 7
    files = {"dense": network, "small": small}
    measured = measure_latency(
        {n: export_tflite(m, tmp_path / f"{n}.tflite") for n, m in files.items()},
        runs=15,
        clock=steadiest_clock(1),
    )
    assert measured["small"].median_ms < measured["dense"].median_ms
    assert 0.3 < dense.whole_ms / measured["dense"].median_ms < 3.0


def test_same_shapes_share_an_entry_and_calls_add_up(specs, stopwatch):
    table = LatencyTable()
    assert table.of(specs["shared"]) == 2.0
    assert table.of(specs["left"]) == table.of(specs["right"]) == 1.0
    assert len(table.entries) == 2
    # A layer without multiplications may be asked for too.
    assert table.of(specs["pool"]) == 1.0
    uncalled = dataclasses.replace(specs["left"], calls=())
    assert table.of(uncalled) == 0.0


def test_what_is_asked_for_at_once_is_measured_at_once(specs, stopwatch):
    steps = []
    table = LatencyTable(progress=lambda *step: steps.append(step))
    requests = [(spec, None, None) for spec in specs.values() if spec.cost.macs]
    table.measure(requests)
    table.measure([*requests, (specs["left"], "ChannelSVDConv2D", (4,))])
    table.measure(requests)
    # shared, left = right, heavy1, heavy2, logits; and the reference each time.
    assert [len(session) for session in stopwatch.sessions] == [6, 2]
    assert steps == [(i, 5) for i in range(1, 6)] + [(1, 1)]


def test_large_requests_are_split(specs, stopwatch, monkeypatch):
    monkeypatch.setattr(latency_table, "_SESSION_BYTES", 1500)
    table = LatencyTable()
    table.measure([(spec, None, None) for spec in specs.values() if spec.cost.macs])
    assert [len(session) - 1 for session in stopwatch.sessions] == [2, 2, 1]
    assert len(table.entries) == 5


def test_sessions_on_a_slower_machine_compare(specs, stopwatch, tmp_path):
    path = tmp_path / "folder" / "table.json"
    first = LatencyTable(path)
    assert first.of(specs["left"]) == 1.0
    stopwatch.slowness = 2.0
    assert first.of(specs["heavy1"]) == 1.0
    stopwatch.slowness = 3.0
    later = LatencyTable(path)
    assert later.of(specs["heavy2"]) == later.of(specs["left"]) == 1.0
    assert sorted(e.median_ms for e in later.entries.values()) == [1.0, 2.0, 3.0]


def test_a_busy_machine_is_told(specs, stopwatch, caplog):
    with caplog.at_level(logging.WARNING):
        for threads in (1, 2):
            stopwatch.slowness = 1.0
            table = LatencyTable(num_threads=threads)
            table.of(specs["left"])
            assert not caplog.records
            stopwatch.slowness = 2.0
            table.of(specs["heavy1"])
            # Processor time, of one thread, knows of no other processes.
            told = steadiest_clock(threads) == "elapsed"
            assert ("machine is busy" in caplog.text) == told
            caplog.clear()


def test_the_file_is_read_and_not_measured_again(specs, stopwatch, tmp_path):
    path = tmp_path / "table.json"
    requests = [(specs["left"], None, None), (specs["left"], "ChannelSVDConv2D", (2,))]
    LatencyTable(path).measure(requests)
    again = LatencyTable(str(path))
    again.measure(requests)
    assert len(stopwatch.sessions) == 1
    assert len(again.entries) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("change", ["cpu", "litert", "threads"])
def test_times_of_other_conditions_are_kept_but_not_used(
    change, specs, stopwatch, tmp_path, monkeypatch
):
    path = tmp_path / "table.json"
    LatencyTable(path).of(specs["left"])
    threads = 2 if change == "threads" else 1
    with monkeypatch.context() as patch:
        if change == "cpu":
            patch.setattr(latency_cache, "cpu_model", lambda: "Abacus 3000")
        if change == "litert":
            patch.setattr(latency_cache, "version", lambda name: "99.0")
        other = LatencyTable(path, num_threads=threads)
        assert not other.entries
        other.of(specs["left"])
        assert len(stopwatch.sessions) == 2
    assert len(json.loads(path.read_text())["sections"]) == 2
    LatencyTable(path).of(specs["left"])
    assert len(stopwatch.sessions) == 2


def test_two_tables_may_share_a_file(specs, stopwatch, tmp_path):
    path = tmp_path / "table.json"
    one, two = LatencyTable(path), LatencyTable(path)
    one.of(specs["left"])
    two.of(specs["heavy1"])
    one.of(specs["heavy2"])
    assert len(LatencyTable(path).entries) == len(one.entries) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        '{"format": "a plan", "sections": {}}',
        '{"format": "tfcompress latency table 1", "sections": [3]}',
        '{"format": "tfcompress latency table 1", "sections": {"a": {"entries": {}}}}',
    ],
)
def test_a_file_that_is_no_table_is_left_alone(text, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(LatencyError, match=r"no latency table.*delete.*plan\.json"):
        LatencyTable(path)
    assert path.read_text() == text


def test_times_in_a_file_must_be_times(specs, stopwatch, tmp_path):
    path = tmp_path / "table.json"
    LatencyTable(path).of(specs["left"])
    path.write_text(path.read_text().replace('"median_ms": 1.0', '"median_ms": 0.0'))
    with pytest.raises(LatencyError, match="no positive number"):
        LatencyTable(path)


def test_errors_name_the_layer_and_the_reason(specs):
    table = LatencyTable()
    with pytest.raises(OptionError, match="'left'.*cannot become a Tucker2Conv2D"):
        table.of(specs["left"], "Tucker2Conv2D", (2, 2))
    with pytest.raises(OptionError, match="'heavy1'.*needs ranks"):
        table.of(specs["heavy1"], "Tucker2Conv2D")
    with pytest.raises(RankError, match="at most"):
        table.of(specs["heavy1"], "Tucker2Conv2D", (999, 2))
    with pytest.raises(OptionError, match="num_threads=0"):
        LatencyTable(num_threads=0)
    with pytest.raises(OptionError, match="runs=0"):
        LatencyTable(runs=0)


class Gate(layers.Layer):
    """A layer that multiplies, but on two inputs: it cannot stand alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4)

    def build(self, x_shape, gate_shape):
        self.inner.build(x_shape)

    def call(self, x, gate):
        return self.inner(x) * gate


def test_layers_that_cannot_stand_alone_are_named(stopwatch, caplog):
    inputs = keras.Input((6,))
    x = layers.Dense(4, name="dense")(inputs)
    x = Gate(name="gate")(x, x)
    model = keras.Model(inputs, x)
    specs = layer_specs(model)
    table = LatencyTable()
    with caplog.at_level(logging.WARNING):
        check = table.check(model, specs)
    assert (check.untimed, check.layers, check.layers_ms) == (("gate",), 1, 1.0)
    assert "'gate' (Gate) cannot be timed by itself" in caplog.text
    with pytest.raises(LatencyError, match="'gate'"):
        table.measure([(spec, None, None) for spec in specs])


def test_attention_is_timed_by_its_projections():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    check = LatencyTable(runs=1).check(model)
    assert check.layers == 4
    assert check.untimed == ("attention",)


def test_embeddings_take_indices():
    ids = keras.Input((7,), dtype="int32")
    model = keras.Model(ids, layers.Embedding(50, 16, name="words")(ids))
    spec = next(s for s in layer_specs(model) if s.name == "words")
    assert LatencyTable(runs=1).of(spec) > 0


def test_a_check_tells_its_gap():
    check = LatencyCheck(whole_ms=2.0, layers_ms=1.5, layers=3, num_threads=1)
    assert check.gap_ms == 0.5 and check.gap == 0.25
    assert check.describe() == (
        "whole model 2.000 ms, its 3 layers 1.500 ms, gap 0.500 ms (25.0%), on 1 thread"
    )
    threaded = dataclasses.replace(check, num_threads=2, untimed=("a", "b"))
    assert threaded.describe().endswith("on 2 threads; not timed: a, b")
