"""Which claims a run used, and the command that says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfcompress.evidence import CLAIMS, EvidenceError, Use, claims_of, claims_of_run
from tfcompress.recipe import parse_recipe

ROOT = Path(__file__).parents[2]


def report_of(*stages):
    recipe = parse_recipe({"dataset": "digits", "stages": ["teacher", *stages]})
    return {"recipe": recipe.to_dict()}


def used(*stages):
    return {one.claim.key: one.uses for one in claims_of(report_of(*stages))}


def test_options_decide_which_claims_a_run_used():
    usual = used("compress")
    assert usual["musco-iterating-budgeted"] == ("compress.rounds: 2",)
    assert usual["weight-error-layers"] == ("compress.selector: budgeted",)
    assert "evbmf-rank" not in usual and "musco-iterating" not in usual
    once = used({"compress": {"rounds": 1, "selector": "vbmf"}})
    assert "musco-iterating-budgeted" not in once
    assert once["evbmf-rank"] == ("compress.selector: vbmf",)
    plain = used({"compress": {"calibration_steps": 0}})
    assert "eagleeye-recalibration" in plain and "eagleeye-recalibration" not in usual
    latency = used({"compress": {"target": {"latency": 0.5}}})
    assert latency["macs-latency"] == ("compress.target.latency: 0.5",)
    fixed = used({"distill": {"views": {"mode": "fixed"}}})
    assert "consistent-over-fixed" not in fixed and "patience" in fixed
    assert used() == {}


def test_every_claim_can_be_used():
    stages = [
        {"distill": {}},
        {"compress": {"selector": "vbmf"}},
    ]
    found = set(used(*stages)) | set(used({"compress": {"calibration_steps": 0}}))
    assert found | set(used("compress", "evaluate")) == {claim.key for claim in CLAIMS}


def test_uses_of_what_is_not_there():
    stages = [{"compress": {"views": None, "rounds": "2"}}]
    assert Use(stage="compress", option="views.mode").found_in(stages) is None
    assert Use(stage="compress", option="rounds", above=1).found_in(stages) is None
    assert Use(stage="compress", option="rounds").found_in(stages)
    assert Use(stage="distill").found_in(stages) is None


def test_used_claims_are_plain_data():
    (first, *_) = claims_of(report_of("compress"))
    data = json.loads(json.dumps(first.to_dict()))
    assert data["uses"] == ["compress.rounds: 2"]
    assert data["verdict"]["outcome"] == first.verdict.outcome
    assert data["url"].startswith("https://")


@pytest.mark.parametrize(
    "report", [{}, {"recipe": {}}, {"recipe": {"stages": [1]}}, []]
)
def test_what_is_no_report(report):
    with pytest.raises(EvidenceError):
        claims_of(report)


def test_the_saved_run_rests_on_claims(cli):
    folder = ROOT / "saved_models" / "digits"
    found = claims_of_run(folder)
    assert {"patience", "musco-iterating-budgeted"} <= {one.claim.key for one in found}
    code, out, err = cli("evidence", folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[0] == "claim" and len(lines) == len(found) + 1
    assert "compress.rounds: 2" in out


def test_the_list(cli):
    code, out, err = cli("evidence")
    assert (code, err) == (0, "")
    for claim in CLAIMS:
        (line,) = [row for row in out.splitlines() if row.startswith(f"{claim.title} ")]
        assert claim.verdict().outcome in line and claim.paper.short in line


def test_the_list_as_json_and_bibtex(cli):
    code, out, _ = cli("evidence", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["claim"] for row in rows] == [claim.key for claim in CLAIMS]
    code, out, _ = cli("evidence", "--bibtex")
    assert code == 0
    assert {f"{{{row['reference']}," in out for row in rows} == {True}


def test_a_run_that_rests_on_nothing(cli, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report_of()))
    assert cli("evidence", tmp_path)[:2] == (
        0,
        "No stage of this run rests on a claim.\n",
    )
    assert cli("evidence", tmp_path, "--json")[:2] == (0, "[]\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no report.json"),
        ("{", "not JSON"),
        ("[]", "no recipe"),
        ('{"recipe": 1}', "no recipe"),
    ],
)
def test_wrong_folders_are_one_line(cli, tmp_path, content, words):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    code, out, err = cli("evidence", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and err.count("\n") == 1 and words in err


def test_no_folder(cli, tmp_path):
    code, _, err = cli("evidence", tmp_path / "missing")
    assert code == 2 and err.count("\n") == 1 and "no run folder" in err


def test_it_imports_no_tensorflow():
    code = (
        "import sys; sys.argv = ['tfcompress', 'evidence', 'saved_models/digits']\n"
        "from tfcompress.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
