"""Every Python snippet of the README runs, and its commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path("README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("tfcompress ")
]


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
    script = tmp_path / "snippets.py"
    script.write_text("\n\n".join(SNIPPETS))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "small.tflite").stat().st_size > 1000


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_the_flags_the_readme_gives_them(command, monkeypatch, capsys):
    """`--help` appended: an unknown flag or command is an error before it."""
    from tfcompress.cli import main

    words = shlex.split(command, comments=True)
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    help_text = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert flag in help_text, f"{flag} is no flag of: {command}"


def test_recipes_the_readme_names_exist():
    for path in re.findall(r"pipelines/recipes/[\w.]+", README):
        assert Path(path).is_file()
