"""The runners as one calls them: compiled for Kubeflow, two at once, mistakes."""

import json
import os
import subprocess
import sys

import pytest
from pipeline_run import NETWORK, PIPELINES, STAGES, Run, states
from tfx import v1 as tfx

import tfcompress


def call(runner, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, str(PIPELINES / runner), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        **options,
    )


def test_compiled_for_kubeflow(whole, tmp_path, monkeypatch, capsys):
    """In this process, for importing TFX anew takes most of a minute."""
    import kubeflow_runner

    output = tmp_path / "pipeline.json"
    arguments = [str(whole.file), "--root", "gs://bucket/runs", "-o", str(output)]
    arguments += ["--image", "registry/tfcompress-tfx:1", "--runner=DataflowRunner"]
    monkeypatch.setattr(sys, "argv", ["kubeflow_runner.py", *arguments])
    kubeflow_runner.main()
    assert capsys.readouterr().out.strip() == str(output)
    spec = json.loads(output.read_text())["pipelineSpec"]
    tasks = set(spec["root"]["dag"]["tasks"])
    assert {name.removesuffix("-task") for name in tasks} == set(whole.states())
    executors = spec["deploymentSpec"]["executors"]
    images = {
        one["container"]["image"] for one in executors.values() if "container" in one
    }
    assert images == {"registry/tfcompress-tfx:1"}
    text = output.read_text()
    assert tfcompress.__version__ in text and "DataflowRunner" in text
    # The artefacts go to the bucket, not to this machine.
    assert "gs://bucket/runs/serving/int8" in text
    assert str(whole.folder / "artefacts") not in text


def test_two_runs_at_once(tmp_path):
    """In one folder, with one metadata file: both end, and with the same weights."""
    stages = [
        {"teacher": {"network": NETWORK, "steps": 8}},
        {"export_tflite": {"quantization": ["float32"]}},
    ]
    run = Run(tmp_path / "run", stages)
    root = tmp_path / "shared"
    running = [call("tfx_local_runner.py", run.file, "--root", root) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-2000:]
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config
    found = states(connection(str(root / "metadata.sqlite")))
    for node, ran in found.items():
        assert len(ran) == 2 and set(ran) <= {"COMPLETE", "CACHED"}, (node, ran)
    made = list((root / "artefacts" / "ExportTFLite_float32").rglob("tflite"))
    assert len({path.read_bytes() for path in made}) == 1
    assert list((root / "serving" / "float32").glob("*/tflite"))


@pytest.mark.parametrize("runner", ["tfx_local_runner.py", "local_runner.py"])
def test_mistakes_take_one_line(tmp_path, runner):
    """Before TFX is imported, which takes most of a minute."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: digits\nstages: [{teechar: {}}]\n")
    process = call(runner, recipe, "--root", tmp_path / "root")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and not out
    (line,) = errors.strip().splitlines()[-1:]
    assert line.startswith("Error:") and "teechar" in line and "teacher" in line
    assert "Traceback" not in errors
    assert not (tmp_path / "root").exists()


def test_the_local_runner_needs_no_tfx():
    code = (
        "import sys; sys.modules['tfx'] = None\n"
        f"sys.path.insert(0, {str(PIPELINES)!r})\n"
        "import local_runner\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_data_set_that_is_no_examples(whole, tmp_path, monkeypatch):
    import tfx_local_runner

    text = whole.file.read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"dataset: digits\n{text[text.index('name: small') :]}")
    monkeypatch.setattr(
        sys, "argv", ["x", str(recipe), "--root", str(tmp_path / "root")]
    )
    with pytest.raises(SystemExit, match="Error: A TFX pipeline reads tf.Examples"):
        tfx_local_runner.main()
    assert len(STAGES) == 6
