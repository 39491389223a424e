"""Lineage from run folders: which data, teacher, ranks and version made a file."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tfcompress import __version__
from tfcompress.data import load_dataset
from tfcompress.deploy import export_tflite
from tfcompress.deploy.metadata import NAME
from tfcompress.errors import ModelFileError, RunFolderError
from tfcompress.files import content_hash
from tfcompress.lineage import LineageError, lineage_of_run
from tfcompress.lineage.record import changed_options, layers_in
from tfcompress.recipe import parse_recipe
from tfcompress.runner import run_recipe
from tfcompress.stages import load_model

# TensorFlow builds graphs for longer than it trains: few layers make a quick run.
NETWORK = {"network": "vgg", "blocks": 1, "width": 8, "hidden": 16}
RECIPE = {
    "name": "tiny",
    "dataset": "digits",
    "seed": 5,
    "stages": [
        {"teacher": {"network": NETWORK, "steps": 2}},
        {
            "factorize": {
                "target": {"macs": 0.7},
                "calibration_steps": 0,
                "selector": "energy",
            }
        },
        {"fine_tune": {"steps": 1}},
        {"export_tflite": {"quantization": ["float32", "dynamic"]}},
        {"evaluate": {"latency_runs": 2, "warmup": 0}},
    ],
}
FILE = "04-export_tflite/compressed_dynamic.tflite"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_recipe(parse_recipe(RECIPE), folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(made, tmp_path / "run")


def result(run, stage):
    return json.loads((run / stage / "result.json").read_text())


def test_a_copied_file_is_told_from_data_to_file(made, tmp_path, cli):
    copy = tmp_path / "shipped.bin"
    shutil.copy(made / FILE, copy)
    code, out, err = cli("lineage", copy, "--run", made, "--json")
    assert code == 0, err
    found = json.loads(out)
    digits = load_dataset("digits")
    assert found["data"]["name"] == "digits"
    assert found["data"]["fingerprint"] == digits.fingerprint
    assert found["data"]["sizes"] == digits.sizes
    assert found["sha256"] == content_hash(made / FILE)
    names = ["01-teacher", "02-factorize", "03-fine_tune", "04-export_tflite"]
    assert [step["name"] for step in found["steps"]] == names
    teacher, low, tuned, export = found["steps"]
    assert [step["reads"] for step in found["steps"]] == [
        ["data"],
        ["01-teacher"],
        ["01-teacher", "02-factorize"],
        ["03-fine_tune"],
    ]
    network = {f"network.{key}": value for key, value in NETWORK.items()}
    assert teacher["options"] == {**network, "steps": 2}
    assert low["options"]["target.macs"] == 0.7
    assert low["options"]["selector"] == "energy"
    assert "learning_rate" not in low["options"]
    for step in found["steps"]:
        assert step["seed"] == 5 and step["versions"] == {"tfcompress": __version__}
        assert step["sha256"] == content_hash(made / step["name"] / step["file"])
    figures = result(made, "02-factorize")["figures"]
    assert low["figures"]["macs"] == figures["after"]["macs"]
    assert low["figures"]["accuracy"] == figures["after"]["accuracy"]
    ranks = {row["name"]: row["ranks"] for row in figures["layers"] if row["ranks"]}
    assert {one["name"]: one["ranks"] for one in low["layers"]} == ranks != {}
    assert export["figures"]["bytes"] == copy.stat().st_size
    rows = result(made, "05-evaluate")["figures"]["files"]
    measured = next(row for row in rows if row["name"] == "compressed dynamic")
    assert found["measured"]["accuracy"] == measured["accuracy"]


def test_where_it_lies_a_file_needs_no_option(made, cli):
    code, out, err = cli("lineage", made / FILE)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == str(made / FILE)
    heads = [line for line in lines if ", from " in line or line.startswith("data ")]
    assert heads == [
        "data digits: 1,149 train, 289 validation, 359 test images",
        "01-teacher, from data",
        "02-factorize, from 01-teacher",
        "03-fine_tune, from 01-teacher, 02-factorize",
        "04-export_tflite, from 03-fine_tune",
    ]
    assert f"seed 5, tfcompress {__version__}" in out
    assert "measured on the file" in out
    assert "FactorizedDense  " in out and "layer " in out


def test_a_teacher_comes_from_data_alone(made):
    found = lineage_of_run(made / "01-teacher" / "teacher.keras", made)
    assert [step.name for step in found.steps] == ["01-teacher"]
    assert found.layers == () and found.table() == []


def test_ranks_are_those_of_the_plan_and_of_the_model(made):
    file = made / "02-factorize" / "compressed.keras"
    planned = lineage_of_run(file, made).layers
    assert planned
    ours = {(one.name, one.kind, one.ranks) for one in layers_in(file)}
    assert ours == {(one.name, one.kind, one.ranks) for one in planned}


def test_layers_of_nested_models_and_of_attention(tmp_path):
    from tfcompress.layers import FactorizedDense, FactorizedMultiHeadAttention

    inner_in = keras.Input((4, 6))
    inner = keras.Model(
        inner_in, FactorizedDense(6, ranks=2, name="low")(inner_in), name="block"
    )
    image = keras.Input((4, 6))
    attention = FactorizedMultiHeadAttention(
        2, 3, ranks={"query": 2, "value": 1}, name="att"
    )
    x = inner(image)
    x = attention(x, x)
    path = tmp_path / "m.keras"
    keras.Model(image, keras.layers.Dense(2)(x)).save(path)
    assert [(one.name, one.ranks) for one in layers_in(path)] == [
        ("block/low", (2,)),
        ("att/query", (2,)),
        ("att/value", (1,)),
    ]


def test_a_model_changed_in_its_place_is_not_the_one_made(run, cli):
    file = run / "03-fine_tune" / "compressed.keras"
    model = load_model(file)
    model.layers[-1].bias.assign_add(np.ones(10))
    model.save(file)
    code, out, err = cli("lineage", file)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "was changed after the run" in err and content_hash(file) in err
    # The same file elsewhere can only be said not to be one of the run's.
    copy = run.parent / "copy.keras"
    shutil.copy(file, copy)
    code, out, err = cli("lineage", copy, "--run", run)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "is not a model that the run" in err and content_hash(copy) in err


def replaced(path, old, new):
    content = path.read_bytes()
    assert content.count(old) >= 1 and len(old) == len(new)
    return content.replace(old, new)


def test_a_tflite_file_changed_after_export(made, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray((made / FILE).read_bytes())
    model = schema.Model.GetRootAs(bytes(content), 0)
    graph = model.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        data = model.Buffers(graph.Tensors(index).Buffer()).DataAsNumpy()
        if not isinstance(data, int) and data.nbytes > 100:
            start = bytes(content).index(data.tobytes())
            content[start + 50] ^= 1
            break
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(content)
    with pytest.raises(LineageError, match="changed after its export"):
        lineage_of_run(changed, made)


def test_a_tflite_file_of_other_metadata_is_found(made, tmp_path):
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(replaced(made / FILE, b'"data": "digits"', b'"data": "Digits"'))
    found = lineage_of_run(copy, made)
    assert found.steps[-1].name == "04-export_tflite"
    assert "only what it says of itself differs" in found.notes[0]
    # Without any word of tfcompress in it, too.
    copy.write_bytes(replaced(made / FILE, NAME.encode(), b"somebody01"))
    assert lineage_of_run(copy, made).steps[-1].name == "04-export_tflite"


def test_a_file_exported_by_hand_is_told_with_the_model_it_is_of(made, tmp_path):
    model = load_model(made / "02-factorize" / "compressed.keras")
    file = export_tflite(model, tmp_path / "mine.tflite", quantization="float16")
    found = lineage_of_run(file, made)
    names = [step.name for step in found.steps]
    assert names == ["01-teacher", "02-factorize", "export"]
    assert "no artefact of the run" in found.steps[-1].notes[0]
    assert found.measured == {}


def test_what_was_made_anew_since_is_told(run):
    place = run / "02-factorize" / "result.json"
    stored = result(run, "02-factorize")
    stored["inputs"]["teacher"] = "0" * 64
    place.write_text(json.dumps(stored))
    notes = lineage_of_run(run / FILE, run).steps[1].notes
    assert len(notes) == 1 and "01-teacher was made anew since" in notes[0]


def test_a_run_of_which_only_the_stages_are_there(run):
    """As a stopped run leaves it, or one of a version that stored less."""
    (run / "report.json").unlink()
    shutil.rmtree(run / "05-evaluate")
    found = lineage_of_run(run / FILE, run)
    assert found.data["fingerprint"] == load_dataset("digits").fingerprint
    assert found.measured == {}
    for place in run.glob("*/result.json"):
        stored = json.loads(place.read_text())
        for key in ("inputs", "data_fingerprint", "tfcompress"):
            del stored[key]
        place.write_text(json.dumps(stored))
    found = lineage_of_run(run / FILE, run)
    assert found.data["fingerprint"] == "not known: the run has not ended"
    assert found.steps[0].versions == {"tfcompress": __version__}
    assert found.steps[1].notes == ()


def test_wrong_calls(made, tmp_path, cli):
    text = tmp_path / "text.keras"
    text.write_text("no model")
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(other)
    file = made / FILE
    for arguments, words in {
        (tmp_path / "none.keras",): "There is no model file",
        (text,): "neither a .keras nor a .tflite file",
        (tmp_path,): "no model artefact",
        (other,): "name its run with --run",
        (other, "--run", made): "is not a model that the run",
        (file, "--run", tmp_path): "no run folder",
        (file, "--run", made, "--metadata", other): "not both",
    }.items():
        code, out, err = cli("lineage", *arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("Error: ") and err.count("\n") == 1, err
        assert words in err, err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "{"),
        ("recipe.yaml", "stages: 3"),
        ("02-factorize/result.json", "{}"),
    ],
)
def test_a_damaged_run_folder_is_named(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(RunFolderError, match=name):
        lineage_of_run(run / FILE, run)


def test_without_ml_metadata_the_extra_is_named(made, monkeypatch, tmp_path):
    from tfcompress.tfx.lineage import lineage_of_metadata

    monkeypatch.setitem(sys.modules, "ml_metadata", None)
    with pytest.raises(LineageError, match="extra tfx"):
        lineage_of_metadata(made / FILE, tmp_path / "metadata.sqlite")
    with pytest.raises(ModelFileError, match="no model file"):
        lineage_of_metadata(tmp_path / "x.keras", tmp_path / "metadata.sqlite")


def test_no_tensorflow_where_hashes_are_enough(made):
    for arguments in (["--help"], [str(made / FILE)]):
        code = (
            f"import sys; sys.argv = ['tfcompress', 'lineage', *{arguments!r}]\n"
            "from tfcompress.cli import main\n"
            "try:\n    main()\n"
            "finally:\n"
            "    heavy = {'tensorflow', 'keras', 'ml_metadata'} & set(sys.modules)\n"
            "    assert not heavy, heavy\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_options_of_a_stage_that_is_not_known_are_all_told():
    assert changed_options("later", {"a": {"b": 1}, "c": None}) == {"a.b": 1, "c": None}
