"""What the README and the guides are checked with: snippets run, commands exist."""

import re
import shlex
import subprocess
import sys


def blocks(text, languages):
    """Contents of a page's code blocks in one of the languages ("sh|console")."""
    return re.findall(rf"```(?:{languages})\n(.*?)```", text, flags=re.DOTALL)


def commands(text, *programs, languages="sh"):
    """Lines of shell blocks that call one of the programs."""
    return [
        line
        for block in blocks(text, languages)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(tuple(f"{program} " for program in programs))
    ]


def run_snippets(snippets, folder, shown):
    """Runs snippets one after the other in a process of its own.

    Args:
        snippets: Python code.
        folder: to run in.
        shown: characters of the errors to show where it fails.
    """
    script = folder / "snippets.py"
    script.write_text("\n\n".join(snippets))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-shown:]


def check_flags(cli, command):
    """`--help` appended: an unknown flag or command is an error before it."""
    _, *words = shlex.split(command, comments=True)
    code, help_text, _ = cli(*words, "--help")
    assert not code
    for flag in (word for word in words if word.startswith("--")):
        assert flag in help_text, f"{flag} is no flag of: {command}"
