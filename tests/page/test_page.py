"""The page as text: what it says, of which runs, and how mistakes end."""

import json
import re
import subprocess
import sys

import pytest

from tfcompress.errors import RunFolderError, TfcompressError
from tfcompress.evidence import claims_of
from tfcompress.page import build_page, load_runs, overview, write_page
from tfcompress.page.view import comparison, differences
from tfcompress.page.words import interval, milliseconds, short, times

# What a recipe's author might call things.
EVIL = "<script>document.title='broken'</script>"


def shown(page):
    """The page without plotly's script: what is left is ours."""
    longest = max(re.findall(r"<script>.*?</script>", page, re.DOTALL), key=len)
    return page.replace(longest, "")


def test_everything_of_a_run_is_on_its_page(run_folder):
    page = shown(build_page(load_runs([run_folder()])))
    for words in (
        "99.72 %",
        "95 %: 98.4 to 100.0 %",
        "4.32x fewer",
        "12.59x smaller",
        "quartiles: 0.0393 to 0.0414",
        "rolled back: accuracy is worse by 0.0500",
        '"name": "rolled back"',
        "Validation accuracy over latency",
        "worth more as it is",
        "8×12",
        ">0.002</td>",
        "compress, round 3: agreement",
        "compressed int8: 2 of 359 test images",
        "Image 7, label <b>8</b>",
        "data:image/png;base64,",
        "+0.0100",
        "1,149 train, 289 validation, 359 test",
        "f59404d86fac9d9bb08ffcf58db4c80361e077f439a71b3dd43a22f89ce23889",
        "2714d0dfb5f718b250a5f1c0b56ba6f59fcbb14dd072e26e040c46ffbb4a41fd",
        "function_matching",
        "2.21.0",
    ):
        assert words in page, words


def test_the_claims_that_the_recipe_rests_on(run_folder):
    """With the verdicts of `tfcompress evidence`, whatever they are."""
    folder = run_folder()
    page = shown(build_page(load_runs([folder])))
    found = claims_of(json.loads((folder / "report.json").read_text()))
    assert len(found) >= 3
    for one in found:
        assert f"<td>{one.claim.title}</td>" in page
        assert f'data-title="verdict">{one.verdict.outcome}<' in page


def test_every_layer_with_weights_has_a_row(run_folder):
    folder = run_folder()
    page = shown(build_page(load_runs([folder])))
    report = json.loads((folder / "report.json").read_text())
    figures = {one["stage"]: one["figures"] for one in report["stages"]}
    for row in figures["compress"]["layers"]:
        cell = f'<td class="name">{row["name"]} '
        assert page.count(cell) == bool(row["dense"]["params"]), row["name"]


def test_the_same_folder_gives_the_same_bytes(run_folder, tmp_path):
    folder = run_folder()
    paths = [tmp_path / name for name in ("a.html", "b.html")]
    for path in paths:
        write_page([folder], path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_an_older_run_folder_says_what_it_lacks(old_folder):
    page = shown(build_page(load_runs([old_folder])))
    assert "This run kept no images" in page
    assert "This run holds none: it has no quantized file" in page
    assert "The latency of the rounds was not measured" in page
    assert "The sensitivity of layers is not in this run" in page
    assert "compress, round 1" not in page


def test_a_run_of_a_teacher_alone(run_folder):
    def cut(report):
        del report["stages"][1:]

    page = shown(build_page(load_runs([run_folder(change=cut, images=False)])))
    assert "no file was measured" in page
    assert "Nothing was factorized" in page
    assert "This run has no rounds" in page
    assert "holds no curves" in page

    def cut_all(report):
        report["stages"] = []

    page = build_page(load_runs([run_folder("none", change=cut_all, images=False)]))
    assert "This run measured no model and no file." in page


def test_runs_side_by_side(run_folder):
    def other(report):
        report["recipe"]["seed"] = 7
        report["recipe"]["stages"][2]["compress"]["rounds"] = 3

    runs = load_runs([run_folder("one"), run_folder("two", change=other)])
    assert [run.label for run in runs] == ["quickstart (one)", "quickstart (two)"]
    table = dict((row[0], row[1:]) for row in comparison(runs))
    assert table["seed"] == ["0", "7"]
    assert table["MACs"] == 2 * ["1.65 M → 382 k (4.32x fewer)"]
    head, *rows = differences(runs)
    assert head == ["option", "quickstart (one)", "quickstart (two)"]
    assert rows == [["seed", "0", "7"], ["stages.compress.rounds", "2", "3"]]
    page = shown(build_page(runs))
    assert "Side by side" in page and page.count('<section class="run"') == 2
    assert differences(runs[:1]) == []
    assert "The recipes do not differ" in build_page(runs[:1] * 2)
    one = run_folder("three")
    assert [r.label for r in load_runs([one, one])] == [
        "quickstart (three) #1",
        "quickstart (three) #2",
    ]


def test_names_are_text_and_never_markup(run_folder):
    """They come from recipes and data sets that somebody else may have written."""

    def rename(report):
        report["recipe"]["name"] = EVIL
        report["dataset"]["name"] = EVIL
        figures = {one["stage"]: one["figures"] for one in report["stages"]}
        figures["compress"]["layers"][1]["name"] = EVIL
        figures["compress"]["rounds"][1]["reason"] = EVIL
        for row in figures["evaluate"]["files"]:
            row["name"] = f"{row['name']} {EVIL}"

    folder = run_folder(change=rename)
    page = build_page(load_runs([folder, folder]))
    assert EVIL not in page
    assert "&lt;script&gt;document.title" in page
    # In the charts' JSON even the entity is escaped.
    assert "\\u0026lt;script" in page


def test_no_tensorflow(run_folder, tmp_path):
    for arguments in (["--help"], [str(run_folder()), "-o", str(tmp_path / "a.html")]):
        code = (
            f"import sys; sys.argv = ['tfcompress', 'report', *{arguments!r}]\n"
            "from tfcompress.cli import main\n"
            "try:\n    main()\n"
            "finally:\n"
            "    heavy = {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)\n"
            "    assert not heavy, heavy\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_overview(run_folder, old_folder):
    found = overview(load_runs([old_folder])[0])
    assert found["measured_on"] == "files"
    assert found["before"]["name"] == "teacher float32"
    assert found["after"]["bytes"] == 56_456

    def cut(report):
        del report["stages"][3:]

    found = overview(load_runs([run_folder(change=cut)])[0])
    assert found["measured_on"] == "models"
    assert found["after"]["macs"] == 381_568


def damaged(folder, text):
    folder.mkdir()
    (folder / "report.json").write_text(text)
    return folder


def test_folders_that_are_no_runs(tmp_path, run_folder):
    file = tmp_path / "file"
    file.write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_text("{}")
    images = run_folder("images")
    (images / "05-evaluate" / "disagreements.json").write_text("{}")
    for folder, words in {
        tmp_path / "none": "There is no run folder",
        file: "is a file",
        empty: "it is no run folder",
        unfinished: "the run has not ended",
        damaged(tmp_path / "cut", '{"recipe": {'): "report.json' is damaged",
        damaged(tmp_path / "list", "[]"): "holds no JSON object",
        damaged(tmp_path / "else", '{"stages": 3}'): "no report of a run",
        images: "disagreements.json' is damaged",
    }.items():
        with pytest.raises(RunFolderError, match=words) as raised:
            load_runs([folder])
        assert "\n" not in str(raised.value)


def test_a_report_with_holes_is_one_clear_error(run_folder):
    def cut(report):
        figures = {one["stage"]: one["figures"] for one in report["stages"]}
        del figures["compress"]["rounds"][0]["after"]

    with pytest.raises(RunFolderError, match="'quickstart' is damaged.*'after'"):
        build_page(load_runs([run_folder(change=cut)]))


def test_output_that_cannot_be_written(run_folder, tmp_path):
    folder = run_folder()
    for path in (tmp_path / "no" / "a.html", folder, folder / "report.json" / "a"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(TfcompressError, match="cannot be written"):
            write_page([folder], path)
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(TfcompressError, match="at least one"):
        build_page([])


def test_without_the_extra(run_folder, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "plotly" else real(n)
    )
    with pytest.raises(TfcompressError, match=r"install tfcompress\[report\]"):
        build_page(load_runs([run_folder()]))


def test_words():
    # Wilson's own figures, by the closed form: 10 of 10 -> z^2 / (n + z^2) missing.
    assert interval(1.0, 10)[0] == pytest.approx(1 - 3.8414588 / 13.8414588)
    assert interval(0.0, 10)[1] == pytest.approx(3.8414588 / 13.8414588)
    low, high = interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(1 - low))
    assert [short(x) for x in (0, 640, 381_568, 1.648e6, 2e10)] == [
        *("0", "640", "382 k", "1.65 M", "20 G")
    ]
    assert short(56_456, "B") == "56.5 kB" and short(12, "B") == "12 B"
    assert milliseconds(12.345) == "12.3 ms"
    words = {"less": "fewer", "more": "more"}
    assert times(4, 2, **words) == "2.00x fewer"
    assert times(2, 4, **words) == "2.00x more"
    assert times(2, 2, **words) == "the same" and times(0, 2, **words) == ""
