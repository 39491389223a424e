"""The guide's snippets run, one after the other, in this process."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "tfx.md"


def test_the_readmes_lines_fit_an_existing_pipeline(tmp_path, monkeypatch):
    """Built, not run: the guide's are the same, and run."""
    existing = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)[0]
    (lines,) = re.findall(
        r"```py\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(f"{existing}\n{lines}", "README.md", "exec"), names)
    assert set(names["judge"].outputs) == {"blessing"}


def test_snippets_run(tmp_path, monkeypatch):
    """Slow (it trains), and the only proof that the guide is true."""
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 3
    monkeypatch.chdir(tmp_path)
    exec(compile("\n\n".join(snippets), str(GUIDE), "exec"), {})
    (pushed,) = (tmp_path / "serving").glob("*/tflite")
    assert pushed.stat().st_size > 1000
