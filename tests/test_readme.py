"""Every Python snippet of the README runs, and its commands exist."""

import re
from pathlib import Path

import pytest
from documents import blocks, check_flags, commands, run_snippets

README = Path("README.md").read_text(encoding="utf-8")
SNIPPETS = blocks(README, "python")
COMMANDS = commands(README, "tfcompress", languages="sh|console")


def test_the_two_commands_stand_at_the_top():
    top = README[:4000]
    assert "make demo" in top
    assert "make test" in top
    targets = re.findall(
        r"^([\w-]+):", Path("Makefile").read_text(), flags=re.MULTILINE
    )
    for command in re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE):
        assert command in targets


def test_there_are_snippets():
    assert len(SNIPPETS) >= 3
    assert len(COMMANDS) >= 5


def test_snippets_run_one_after_the_other(tmp_path):
    """Slow (it trains), and the only proof that the README is true."""
    run_snippets(SNIPPETS, tmp_path, 2000)
    assert (tmp_path / "small.tflite").stat().st_size > 1000


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_flags_the_readme_gives_them(command, cli):
    check_flags(cli, command)


def test_recipes_the_readme_names_exist():
    for path in re.findall(r"pipelines/recipes/[\w.]+", README):
        assert Path(path).is_file()
