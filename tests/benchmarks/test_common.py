"""What the benchmarks share."""

import json
import re
import time

from benchmarks import common


def test_functions_are_timed_in_turn():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.01)

    timings = common.time_calls(
        {"slow": slow, "fast": lambda: calls.append("fast")}, repeats=3, warmup=2
    )
    assert calls == ["slow"] * 2 + ["fast"] * 2 + ["slow", "fast"] * 3
    assert 0.01 <= timings["slow"].q1 <= timings["slow"].median <= timings["slow"].q3
    assert timings["fast"].median < timings["slow"].median
    assert common.time_call(slow, repeats=1, warmup=0).repeats == 1


def test_a_table_is_aligned():
    assert common.table(("name", "ms"), [("a", 1.5), ("longer", 10)]) == [
        "name     ms",
        "------  ---",
        "a       1.5",
        "longer   10",
    ]


def test_results_tell_where_they_come_from(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["anywhere/speed.py", "--runs", "3"])
    common.write_result("speed", {"x": 1}, ["x", "1"], folder=tmp_path / "new")
    assert capsys.readouterr().out == "x\n1\n"
    data = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert data["name"] == "speed" and data["data"] == {"x": 1}
    assert data["command"] == "python -m benchmarks.speed --runs 3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", data["date"])
    assert data["machine"]["tensorflow"] and data["machine"]["cpu"]
    page = (tmp_path / "new" / "speed.md").read_text()
    assert data["command"] in page and "```\nx\n1\n```" in page
    # Neither paths nor the name of the machine.
    assert "/" not in json.dumps(data["machine"])
