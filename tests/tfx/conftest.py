"""Real TFX: one run of the whole pipeline serves all tests."""

import pytest
from pipeline_run import Run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("tfx") / "run").run()
