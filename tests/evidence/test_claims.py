"""Claims name what exists, and verdicts follow the figures."""

import copy
import importlib
import json
import re
import typing
from pathlib import Path

import pytest
from evidence.made import LEADS, MADE, empty

from benchmarks import evidence as benchmark
from tfcompress.errors import TfcompressError
from tfcompress.evidence import CLAIMS, PAPERS, bibtex
from tfcompress.evidence.results import KEPT, EvidenceError, condensed, find_result
from tfcompress.evidence.rules import loop
from tfcompress.evidence.verdict import OUTCOMES, Comparison, by_majority
from tfcompress.recipe import nested_dataclass
from tfcompress.stages import STAGES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
by_key = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)


def document_of(claim):
    """The committed result of a claim, or one in its form where that is not whole."""
    found = find_result(claim.result)
    if claim.result in MADE:
        whole = empty(claim.result)
        if found is None or found["cells"].keys() != whole["cells"].keys():
            return whole
    return copy.deepcopy(found)


def test_every_paper_of_the_issue_is_there():
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) == len(LEADS)
    for key in ("musco", "beyer", "nakajima", "schuurmans", "eagleeye"):
        assert any(key in claim.paper.key.lower() for claim in CLAIMS)


@by_key
def test_claims_name_what_exists(claim):
    assert (ROOT / "benchmarks" / f"{claim.benchmark}.py").is_file()
    assert claim.result in KEPT
    assert claim.paper in PAPERS
    for name in claim.rests:
        resolve(name)
    for use in claim.uses:
        cls = STAGES[use.stage]
        for part in use.option.split(".") if use.option else ():
            hints = typing.get_type_hints(cls)
            assert part in hints, f"{claim.key}: no {use.stage}.{use.option}"
            cls = nested_dataclass(hints[part])


def resolve(name):
    """What a dotted name stands for: a module, and attributes in it."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is nothing")


@by_key
def test_the_verdict_turns_with_the_figures(claim):
    outcomes = []
    for lead in (0.05, -0.05, 0.0):
        document = document_of(claim)
        LEADS[claim.key](document, lead)
        outcomes.append(claim.verdict({claim.result: document}).outcome)
    assert outcomes == ["supports", "contrasts", "undecided"]


@by_key
def test_without_a_result_it_is_not_tested(claim):
    verdict = claim.verdict({})
    assert verdict.outcome == "not tested"
    assert f"{claim.benchmark}.py" in verdict.figures


@by_key
def test_one_seed_is_no_test(claim):
    document = document_of(claim)
    if "cells" not in document:
        pytest.skip("times have no seeds")
    first = {k: v for k, v in document["cells"].items() if k.split(" | ")[-1] == "0"}
    verdict = claim.verdict({claim.result: document | {"cells": first}})
    assert verdict.outcome == "not tested"


@by_key
def test_raw_and_condensed_results_are_judged_alike(claim):
    if f"{claim.result}.json" not in benchmark.packaged():
        assert claim.verdict().outcome == "not tested"
        return
    raw = json.loads((RESULTS / f"{claim.result}.json").read_text())
    verdict = claim.verdict({claim.result: raw})
    assert verdict.outcome == claim.verdict().outcome
    assert verdict.outcome in OUTCOMES
    small = condensed(claim.result, raw)
    assert len(json.dumps(small)) <= len(json.dumps(raw))


def test_the_packaged_results_and_the_page_are_up_to_date():
    message = "run `python -m benchmarks.evidence`"
    texts = benchmark.packaged()
    files = {p.name: p.read_text() for p in benchmark.PACKAGED.glob("*.json")}
    assert files == texts, message
    assert benchmark.PAGE.read_text() == benchmark.page(), message
    assert sum(map(len, texts.values())) < 200_000


def test_a_grid_that_still_runs_is_left_out(tmp_path):
    grid = json.dumps(empty("patience"))
    (tmp_path / "patience.json").write_text(grid)
    assert benchmark.packaged(tmp_path) == {}
    (tmp_path / "patience.md").write_text("# patience")
    (text,) = benchmark.packaged(tmp_path).values()
    assert json.loads(text)["cells"].keys() == json.loads(grid)["cells"].keys()


def test_broken_results_are_said(monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "patience.json").write_text("{")
    monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path)
    with pytest.raises(EvidenceError, match=r"patience\.json"):
        find_result("patience")
    assert issubclass(EvidenceError, TfcompressError)


@pytest.mark.parametrize(
    ("values", "count", "outcome"),
    [
        ([1.0, 1.1, 0.9], 1, "supports"),
        ([-1.0, -1.1, -0.9], 1, "contrasts"),
        # Larger than its standard error, 0.58, but not than two of them.
        ([2.0, 1.0, 0.0], 1, "undecided"),
        ([2.0, 1.0, 0.0], 6, "supports"),
        ([0.1, 0.0, -0.1], 6, "undecided"),
        ([1.0, 1.1], 6, "not tested"),
    ],
)
def test_noise_decides_nothing(values, count, outcome):
    found = [Comparison.of("a against b", values) for _ in range(count)]
    assert by_majority(found).outcome == outcome


def test_what_costs_more_is_not_compared():
    (claim,) = (claim for claim in CLAIMS if claim.key == "musco-weakened")
    document = empty(claim.result)
    LEADS[claim.key](document, 0.05)
    for name, cell in document["cells"].items():
        cell["macs"] *= 1.1 if "weakened" in name else 1.0
    assert claim.verdict({claim.result: document}).outcome == "not tested"


def test_one_task_is_no_variety():
    document = empty("tasks")
    assert loop.tasks(document).outcome == "supports"
    del document["cells"]["segmentation | 2"]
    found = loop.tasks(document)
    assert found.outcome == "not tested"
    assert "Of the 3 tasks, 2 have" in found.figures


def test_half_is_no_majority():
    good, bad = (Comparison.of("", [s, s + 0.1, s - 0.1]) for s in (1.0, -1.0))
    assert by_majority([good, bad]).outcome == "undecided"
    assert by_majority([good, bad, good]).outcome == "supports"
    assert by_majority([good, None, None]).outcome == "supports"
    assert by_majority([None]).outcome == "not tested"


def test_bibtex():
    text = bibtex()
    entries = re.findall(r"^@(\w+)\{([\w-]+),$", text, flags=re.MULTILINE)
    assert [key for _, key in entries] == [paper.key for paper in PAPERS]
    assert text.count("{") == text.count("}")
    for paper in PAPERS:
        for field in ("title", "author", "year"):
            assert re.search(rf"^  {field} = \{{", paper.bibtex, flags=re.MULTILINE)
        number = re.search(r"eprint = \{([\d.]+)\}", paper.bibtex)
        if number:
            assert paper.url == f"https://arxiv.org/abs/{number[1]}"
    assert bibtex([PAPERS[1], PAPERS[1]]).count("@") == 1
