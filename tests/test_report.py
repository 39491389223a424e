"""The report's text, and what counts as a time."""

from tfcompress.report import file_table, to_markdown, without_times


def report(**compress):
    cost = {"params": 100, "macs": 1000, "bytes": 400}
    half = {"params": 50, "macs": 500, "bytes": 200}
    scores = {"accuracy": 0.9, "agreement": 0.8}
    latency = {"median_ms": 2.0, "q1_ms": 1.9, "q3_ms": 2.1}
    row = {"model": "teacher", "samples": 7, "latency": latency, **cost, **scores}
    layer = {"kind": "Conv2D", "dense": cost}
    return {
        "recipe": {"name": "demo", "seed": 0},
        "tfcompress": "0",
        "dataset": {"name": "d", "sizes": {"train": 5}, "image_shape": [2, 2, 1]},
        "stages": [
            {"stage": "teacher", "figures": {"before": None, "after": cost}}
            | {"seconds": 1.0},
            {
                "stage": "compress",
                "seconds": 2.0,
                "figures": {
                    "before": cost | scores,
                    "after": half | scores,
                    "target": {"macs": 0.5},
                    "target_met": False,
                    "rounds": [],
                    "layers": [
                        layer
                        | {"name": "a", "ranks": [3, 4], "cost": half, "reason": None},
                        layer
                        | {"name": "b", "ranks": None, "cost": cost}
                        | {"reason": "kept as asked"},
                    ],
                    **compress,
                },
            },
            {
                "stage": "export_tflite",
                "seconds": 0.1,
                "figures": {"bytes": {"float32": 9, "int8": 4}, "model": "teacher"},
            },
            {
                "stage": "evaluate",
                "seconds": 3.0,
                "figures": {"files": [row | {"name": "teacher float32"}]},
            },
        ],
    }


def test_markdown_says_what_happened_to_every_layer_and_misses():
    text = to_markdown(report())
    assert "target macs <= 50.0 %: NOT met" in text
    assert "| `a` | Conv2D | 3x4 | 100 -> 50 | 1,000 -> 500 |  |" in text
    assert "| `b` | Conv2D |  | 100 | 1,000 | kept as asked |" in text
    assert "100 -> 50" in text
    assert "target macs <= 50.0 %: met" in to_markdown(report(target_met=True))


def test_every_table_row_has_as_many_cells_as_its_head():
    width = None
    for line in to_markdown(report()).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_file_table():
    head, row = file_table(report())
    assert len(head) == len(row)
    assert row[0] == "teacher float32"
    assert "2.000 (1.900 to 2.100)" in row
    assert file_table({"stages": []}) == []


def test_without_times_drops_times_and_nothing_else():
    data = {"a": 1, "seconds": 3, "list": [{"latency": {"median_ms": 1}, "b": 2}]}
    assert without_times(data) == {"a": 1, "list": [{"b": 2}]}


def test_the_export_row_is_of_the_files():
    lines = to_markdown(report()).splitlines()
    row = next(line for line in lines if line.startswith("| export_tflite |"))
    assert "9 -> 4 (files)" in row
    assert "0.9000 (test)" in row


def test_plot(tmp_path):
    from tfcompress.plots import plot_report

    scores = {"accuracy": 0.9}
    entry = {
        "after": {"macs": 500},
        "dense": {"macs": 1000},
        "recalibrated": {"accuracy": 0.7},
        "fine_tuned": scores,
        "accepted": True,
    }
    rounds = [entry, entry | {"accepted": False, "after": {"macs": 300}}]
    assert plot_report(report(rounds=rounds), tmp_path / "a.png")
    assert plot_report(report(rounds=rounds), tmp_path / "b.png")
    first = (tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "b.png").read_bytes()
    assert not plot_report({"stages": []}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_markdown_says_how_the_file_was_quantized():
    given = report()
    export = next(s for s in given["stages"] if s["stage"] == "export_tflite")
    trial = {"method": "float32", "accuracy": 0.9, "drop": 0.0, "bytes": 4000}
    worse = {"method": "int8", "accuracy": 0.85, "drop": 0.05, "bytes": 1000}
    layer = {"layer": "stem", "relative": 0.25, "added": 0.125}
    export["figures"]["auto"] = {
        "chosen": "int8",
        "met": False,
        "trials": [trial, worse],
        "layers": [layer],
    }
    text = to_markdown(given)
    assert "## Quantization (limit NOT met)" in text
    assert "| int8 | 0.8500 | +0.0500 | 1,000 | yes |" in text
    assert "| `stem` | 0.2500 | +0.1250 |" in text
    assert "## Quantization" not in to_markdown(report())
