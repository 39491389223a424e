"""Every Python snippet of the guides runs, one after the other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# `tests/tfx/test_guide.py` runs what needs TFX.
GUIDES = sorted(path for path in Path("docs").glob("*.md") if path.name != "tfx.md")


def test_there_are_guides():
    assert "distil.md" in {guide.name for guide in GUIDES}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_snippets_run(guide, tmp_path):
    """Slow (it trains), and the only proof that the guide is true."""
    snippets = re.findall(r"```python\n(.*?)```", guide.read_text(), flags=re.DOTALL)
    assert snippets
    script = tmp_path / "snippets.py"
    script.write_text("\n\n".join(snippets))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
