"""The command line: results on real input, and one clear line for each mistake."""

import inspect
import json
import subprocess
import sys

import keras
import pytest

from tfcompress.cli.main import app
from tfcompress.data.splits import SPLITS
from tfcompress.models import vgg


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "net.keras"
    # Few layers: TensorFlow builds graphs for longer than it trains.
    vgg((8, 8, 1), 10, blocks=1, width=16, hidden=32).save(path)
    return path


def test_help_is_quick_and_imports_no_tensorflow():
    code = (
        "import sys; sys.argv = ['tfcompress', '--help']\n"
        "from tfcompress.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
        "    import time; sys.stderr.write(str(time.process_time()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("plan", "compress", "distill", "export", "bench", "run", "report"):
        assert name in done.stdout
    assert "evidence" in done.stdout
    assert " data " in done.stdout
    # Half a second is promised on an idle machine; this bound on the processor's time
    # only finds an import of seconds.
    assert float(done.stderr) < 3.0


def test_version(cli):
    from tfcompress import __version__

    assert cli("--version") == (0, f"{__version__}\n", "")


def test_plan_lists_every_layer_and_writes_nothing(cli, model):
    before = sorted(model.parent.iterdir())
    code, out, err = cli("plan", model, "--target-macs", "0.5", "--all")
    assert (code, err) == (0, "")
    network = keras.models.load_model(model)
    for layer in network.layers:
        assert sum(line.startswith(layer.name + " ") for line in out.splitlines()) == 1
    assert "budget macs <= 50.0%: met" in out
    assert sorted(model.parent.iterdir()) == before


def test_plan_as_json(cli, model):
    code, out, _ = cli("plan", model, "--json", "--keep", "block1_1*")
    plan = json.loads(out)
    assert code == 0
    first = next(row for row in plan["layers"] if row["name"] == "block1_1_conv")
    assert first["reason"] == "kept as asked"
    assert plan["after"]["macs"] <= 0.5 * plan["dense"]["macs"]


def test_plan_of_a_named_network(cli):
    code, out, _ = cli("plan", "MobileNetV2")
    assert code == 0
    assert "depthwise convolution" in out
    assert "random weights" in out


def test_export_bench(cli, model, tmp_path):
    files = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    code, out, _ = cli("export", model, "-o", files[0], "--json")
    assert code == 0
    size = files[0].stat().st_size
    wanted = {"path": str(files[0]), "bytes": size, "quantization": "float32"}
    assert json.loads(out) == wanted
    code, out, _ = cli(
        "export", model, "-o", files[1], "--quantization", "int8", "--data", "digits"
    )
    assert code == 0
    assert f"{files[1].stat().st_size:,} bytes" in out
    code, out, _ = cli("bench", *files, "--runs", "3", "--warmup", "1", "--json")
    found = json.loads(out)
    assert code == 0
    assert [row["name"] for row in found["rows"]] == ["a.tflite", "b.tflite"]
    assert all(row["median_ms"] > 0 for row in found["rows"])
    results = tmp_path / "bench.json"
    code, out, _ = cli(
        *("bench", *files, "--runs", "3", "--threads", "1,2", "--xnnpack", "both"),
        *("-o", results),
    )
    assert code == 0 and out.count("b.tflite") == 4 and "1.00 (1.00 to 1.00)" in out
    assert len(json.loads(results.read_text())["rows"]) == 8
    code, out, _ = cli("inspect", files[1])
    assert code == 0
    assert "labels: ['0', '1'" in out and "contents: as exported" in out
    assert "CONV_2D(INT8, INT8, INT32)" in out
    code, out, _ = cli("inspect", files[0], "--json")
    assert json.loads(out)["metadata"]["quantization"] == "float32"
    code, out, _ = cli("evaluate", files[1], "--data", "digits", "--reference", model)
    assert code == 0
    assert "samples: 359" in out and "relative error" in out and "block1_1" in out
    code, out, _ = cli("evaluate", files[0], "--data", "digits", "--json")
    assert json.loads(out)["layers"] == [] and json.loads(out)["samples"] == 359


def test_export_as_far_as_the_accuracy_allows(cli, model, tmp_path):
    path = tmp_path / "a.tflite"
    code, out, err = cli(
        *("export", model, "-o", path, "--quantization", "auto", "--data", "digits"),
        *("--max-drop", "0.5", "--training-epochs", "0"),
    )
    assert code == 0, err
    assert "<- chosen" in out and f"{path.stat().st_size:,} bytes" in out
    assert list(tmp_path.iterdir()) == [path]
    code, out, err = cli(
        *("export", model, "-o", path, "--quantization", "auto", "--data", "digits"),
        *("--max-drop", "0.5", "--training-epochs", "0", "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["bytes"] == path.stat().st_size and found["chosen"] == "int8"
    assert [trial["method"] for trial in found["trials"]] == ["float32", "int8"]


def test_json_everywhere(cli):
    def results(app):
        for command in app.registered_commands:
            yield command.callback
        for group in app.registered_groups:
            yield from results(group.typer_instance)

    commands = list(results(app))
    assert len(commands) >= 12
    for command in commands:
        assert "as_json" in inspect.signature(command).parameters, command


def test_data_may_be_examples(cli, model, tmp_path):
    folder = tmp_path / "examples"
    write = ("data", "write-examples", folder, "--data", "digits", "--shards", 2)
    code, out, err = cli(*write)
    assert code == 0, err
    assert out == (
        f"{folder}: 1,149 train, 289 validation, 359 test examples; use it as "
        f"--data {folder}\n"
    )
    assert sorted(p.parent.name for p in folder.glob("*/*")) == sorted(2 * SPLITS)
    code, out, err = cli(*write)
    assert code == 2 and "exists already" in err, err
    path = tmp_path / "m.tflite"
    code, out, err = cli(
        *("export", model, "-o", path, "--quantization", "int8", "--data", folder)
    )
    assert code == 0, err
    code, out, err = cli("evaluate", path, "--data", folder, "--json")
    assert code == 0 and json.loads(out)["samples"] == 359, err


def test_export_in_other_formats(cli, model, tmp_path):
    folder = tmp_path / "serving" / "1"
    code, out, err = cli("export", model, "-o", folder, "--format", "saved_model")
    assert code == 0, err
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert out == f"{folder}: {total:,} bytes\n"
    file = tmp_path / "m.onnx"
    code, out, err = cli("export", model, "-o", file, "--data", "digits")
    assert code == 0, err
    assert out == f"{file}: {file.stat().st_size:,} bytes\n"


def test_compress_and_distill(cli, model, tmp_path):
    smaller = tmp_path / "smaller.keras"
    code, out, err = cli(
        *("compress", model, "--data", "digits", "-o", smaller),
        *("--target-macs", "0.7", "--max-drop", "1.0", "--steps", "2"),
        *("--rounds", "1"),
    )
    assert code == 0, err
    assert "target met: yes" in out
    assert (
        keras.models.load_model(smaller).count_params()
        < keras.models.load_model(model).count_params()
    )
    student = tmp_path / "student.keras"
    code, out, err = cli(
        *("distill", smaller, "--data", "digits", "-o", student),
        *("--student-network", "vgg", "--student-blocks", "1", "--student-width", "4"),
        *("--student-hidden", "8", "--steps", "2", "--json"),
        *("--preset", "food101/100", "--algorithm", "soap", "--batch-size", "64"),
    )
    assert code == 0, err
    assert keras.models.load_model(student).output_shape == (None, 10)
    found = json.loads(out)
    assert found["path"] == str(student)
    assert found["after"]["params"] == keras.models.load_model(student).count_params()
    assert sorted(tmp_path.iterdir()) == [smaller, student]


def test_report(cli, tmp_path):
    page = tmp_path / "report.html"
    run = "saved_models/digits"
    code, out, err = cli("report", run, run, "-o", page)
    assert (code, err) == (0, "")
    assert "1.65 M → 382 k (4.32x fewer)" in out
    assert f"{page}: {page.stat().st_size:,} bytes" in out
    assert "quickstart (digits) #2" in page.read_text()
    code, out, _ = cli("report", run, "-o", page, "--json")
    found = json.loads(out)
    assert found["file"] == str(page)
    (row,) = found["runs"]
    assert row["run"] == run and row["name"] == "quickstart"
    assert row["before"]["macs"] == 1_648_256 and row["after"]["macs"] == 381_568


def test_reports_that_cannot_be_made(cli, tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "report.json").write_text('{"recipe":')
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    run = "saved_models/digits"
    for arguments, words in {
        (tmp_path / "none", "-o", tmp_path / "a.html"): "There is no run folder",
        (tmp_path / "empty", "-o", tmp_path / "a.html"): "holds no report.json",
        (tmp_path / "cut", "-o", tmp_path / "a.html"): "is damaged",
        (run, "-o", tmp_path / "no" / "a.html"): "cannot be written",
        (run, "-o", tmp_path / "cut"): "cannot be written",
    }.items():
        code, out, err = cli("report", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("Error: ") and err.count("\n") == 1, err
        assert words in err, err
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_on_a_terminal_show_names_as_they_are(monkeypatch, capsys):
    from tfcompress.cli.common import print_table

    table = [["file", "[bold]x"], ["[red]name", "1"]]
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda t=terminal: t, raising=False)
        print_table(table)
        out = capsys.readouterr().out
        assert "[red]name" in out and "[bold]x" in out
        assert ("┃" in out) == terminal


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


TEACHER = "dataset: digits\nstages:\n- teacher: {steps: 1}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEACHER.replace("digits", "no_such_set"), "no_such_set"),
        (TEACHER.replace("steps", "stepz"), "did you mean 'steps'?"),
        (TEACHER + "- compress: {target: {macs: 0}}\n", "in (0, 1]"),
        (
            "dataset: digits\nstages:\n- teacher: {network: {load: x.keras}}\n",
            "x.keras",
        ),
    ],
    ids=["dataset", "key", "budget", "model"],
)
def test_bad_recipes(cli, tmp_path, text, words):
    path = recipe(tmp_path, text)
    code, out, err = cli("run", path, "-o", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.iterdir()) == [path]


def test_bad_inputs(cli, model, tmp_path):
    text = tmp_path / "text.keras"
    text.write_text("not a model")
    seven = tmp_path / "seven.keras"
    vgg((8, 8, 1), 7, blocks=1, width=4, hidden=8).save(seven)
    new = tmp_path / "new.keras"
    calls = {
        ("plan", text): "not a Keras model",
        ("plan", "VGG61"): "neither a .keras file nor",
        ("plan", tmp_path / "none.keras"): "There is no model file",
        ("plan", model, "--target-macs", "1.5"): "in (0, 1]",
        ("plan", model, "--target-macs", "nan"): "in (0, 1]",
        ("plan", model, "--selector", "enrgy"): "did you mean 'energy'?",
        ("plan", model, "--keep", "stm*"): "No layer matches 'stm*'",
        ("compress", seven, "--data", "digits", "-o", new): "has 10 classes",
        ("compress", model, "--data", "nope", "-o", new): "nope",
        ("compress", seven, "--data", "digits", "-o", seven): "the model itself",
        ("compress", model, "--data", "digits", "-o", "x.h5"): "must end in .keras",
        ("compress", model, "--data", "digits", "-o", text / "x.keras"): "no folder",
        ("export", text, "-o", new): "not a Keras model",
        ("export", model, "-o", new, "--quantization", "int9"): "'int8'",
        ("export", model, "-o", new, "--quantization", "int8"): "--data",
        ("export", model, "-o", new, "--quantization", "16x8"): "--data",
        ("export", model, "-o", new, "--allow", "flexx"): "any of",
        ("export", model, "-o", new, "--quantization", "auto"): "--data",
        ("export", model, "-o", new, "--max-drop", "2"): "max_drop must lie in",
        ("export", model, "-o", model): "the model itself",
        ("export", model, "-o", new, "--format", "onxx"): "did you mean 'onnx'?",
        (*("export", model, "-o", "m.onnx"), "--quantization", "int8"): "Only .tflite",
        ("bench", text): "text.keras",
        ("bench", text, "--threads", "0"): "positive",
        ("bench", text, "--threads", "two"): "--threads takes numbers",
        ("bench", text, "--xnnpack", "maybe"): "on, off or both",
        ("bench", text, "-o", tmp_path / "no" / "x.json"): "no folder",
        ("inspect", text): "not a TFLite model",
        ("evaluate", text, "--data", "digits"): "not a TFLite model",
        ("evaluate", text, "--data", "digits", "--split", "tst"): "--split",
        ("data", "import-idx", tmp_path, "--name", "x", "--data-dir", tmp_path): "IDX",
    }
    for arguments, words in calls.items():
        code, out, err = cli(*arguments)
        assert code == 2, (arguments, err)
        assert err.startswith("Error: ") and err.count("\n") == 1, err
        assert words in err, (arguments, err)
        assert out == ""
    assert sorted(tmp_path.iterdir()) == [seven, text]


def test_folders_that_do_not_fit(cli, tmp_path):
    path = recipe(tmp_path, TEACHER)
    code, _, err = cli("run", path, "-o", path / "below")
    assert code == 2 and "cannot be written" in err
    assert path.read_text() == TEACHER
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"recipe": "of somebody else"}')
    code, _, err = cli("run", path, "-o", other)
    assert code == 2 and "belongs to another recipe" in err
    assert [p.name for p in other.iterdir()] == ["run.json"]


def test_models_that_cannot_be_compressed(cli, tmp_path):
    """Of the wrong kind, of code that is not here, or with nothing to factorize."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.GlobalAveragePooling2D()(image)
    small = tmp_path / "small.keras"
    keras.Model(image, keras.layers.Dense(10)(x)).save(small)
    new = tmp_path / "new.keras"
    code, _, err = cli("compress", small, "--data", "digits", "-o", new)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("Error: Nothing in model")
    assert "no ranks make it smaller" in last

    @keras.saving.register_keras_serializable(package="elsewhere")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(10)

        def call(self, inputs):
            return self.dense(keras.ops.reshape(inputs, (-1, 64)))

    own = Own()
    own(keras.ops.zeros((1, 8, 8, 1)))
    own.save(tmp_path / "own.keras")
    keras.saving.get_custom_objects().pop("elsewhere>Own")
    code, _, err = cli("plan", tmp_path / "own.keras")
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1
    assert "Own" in err
    assert not new.exists()
