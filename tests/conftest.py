"""What is collected where, and what tests share."""

import gc
import importlib.util
import sys

import pytest

collect_ignore = []

if not importlib.util.find_spec("ml_metadata"):
    # Real TFX has an environment of its own: `make test-tfx`, which names the folder,
    # and so fails where TFX is missing. (`tfx` is also the name of the tests' folder.)
    collect_ignore.append("tfx")


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """Takes what the modules before have left out of the garbage collector's sight.

    TensorFlow's converter collects for every file, through all objects of the process:
    after some hundred tests that took as long as the conversion.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def cli(monkeypatch, capfd):
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from tfcompress.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfcompress", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call
