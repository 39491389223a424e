"""The guides are true: every Python snippet runs, and every command exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = {path.stem: path.read_text() for path in sorted(Path("docs").glob("*.md"))}
SNIPPETS = {
    name: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for name, text in PAGES.items()
}
# `tests/tfx/test_guide.py` runs what needs TFX.
GUIDES = [name for name, found in SNIPPETS.items() if found and name != "tfx"]
COMMANDS = sorted(
    {
        line
        for text in PAGES.values()
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(("tfcompress ", "make "))
    }
)


def test_all_guides_are_there():
    assert set(GUIDES) >= {"your_model", "distil", "budgets", "deploy", "extend"}
    assert set(PAGES) >= {"index", "tfx", "how_it_works", "limits", "evidence"}


def test_the_site_shows_every_page():
    navigation = Path("mkdocs.yml").read_text().partition("\nnav:")[2]
    shown = {name.removesuffix(".md") for name in re.findall(r"\S+\.md", navigation)}
    assert shown == set(PAGES)


@pytest.mark.parametrize("guide", GUIDES)
def test_snippets_run(guide, tmp_path):
    """Slow (it trains), and the only proof that the guide is true."""
    script = tmp_path / "snippets.py"
    script.write_text("\n\n".join(SNIPPETS[guide]))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_flags_they_are_given(command, monkeypatch, capsys):
    """`--help` appended: an unknown flag or command is an error before it."""
    from tfcompress.cli import main

    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(f"^{words[1]}:", Path("Makefile").read_text(), re.MULTILINE)
        return
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    help_text = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert flag in help_text, f"{flag} is no flag of: {command}"
