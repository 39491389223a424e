"""The guides are true: every Python snippet runs, and every command exists."""

import re
from pathlib import Path

import pytest
from documents import blocks, check_flags, commands, run_snippets

PAGES = {path.stem: path.read_text() for path in sorted(Path("docs").glob("*.md"))}
SNIPPETS = {name: blocks(text, "python") for name, text in PAGES.items()}
# `tests/tfx/test_guide.py` runs what needs TFX.
GUIDES = [name for name, found in SNIPPETS.items() if found and name != "tfx"]
COMMANDS = sorted(
    {line for text in PAGES.values() for line in commands(text, "tfcompress", "make")}
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
    run_snippets(SNIPPETS[guide], tmp_path, 3000)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_flags_they_are_given(command, cli):
    program, *words = command.split()
    if program == "make":
        assert re.search(f"^{words[0]}:", Path("Makefile").read_text(), re.MULTILINE)
    else:
        check_flags(cli, command)
