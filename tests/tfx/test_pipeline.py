"""The whole pipeline on real TFX: the local run's weights, cache, blessing, resume."""

import json

import keras
import numpy as np
import pytest
from pipeline_run import NETWORK, STAGES, Run, states
from tensorflow_model_analysis import load_eval_result
from tfx.types import standard_artifacts

from tfcompress.data import load_dataset
from tfcompress.deploy import TFLiteModel, inspect_tflite
from tfcompress.errors import RecipeError
from tfcompress.files import content_hash
from tfcompress.runner import run_recipe
from tfcompress.tfx.artifacts import KERAS_FILE, TFLITE_FILE
from tfcompress.tfx.steps import evaluate_file

FILES = ("float32", "int8", "quantized")
# Node of the pipeline -> folder and file of the local run.
SAME = {
    "Teacher": ("teacher", "teacher.keras"),
    "Distill": ("distill", "student.keras"),
    "Compress": ("compress", "compressed.keras"),
    "ExportTFLite_float32": ("export_tflite", "compressed_float32.tflite"),
    "ExportTFLite_int8": ("export_tflite", "compressed_int8.tflite"),
    "Quantize": ("quantize", "compressed_quantized.tflite"),
}


def file_in(folder):
    keras = folder / KERAS_FILE
    return keras if keras.exists() else folder / TFLITE_FILE


@pytest.fixture(scope="module")
def local(whole, tmp_path_factory):
    """The same recipe without TFX."""
    folder = tmp_path_factory.mktemp("local") / "run"
    return folder, run_recipe(whole.recipe, folder)


def figures_of(report, stage):
    return next(x["figures"] for x in report["stages"] if x["stage"] == stage)


def test_every_component_ran_once(whole):
    nodes = {"ImportExampleGen", "Teacher", "Distill", "Compress", "Quantize"}
    nodes |= {"ExportTFLite_float32", "ExportTFLite_int8", "Evaluator"}
    nodes |= {f"{x}_{name}" for x in ("EvaluateTFLite", "Pusher") for name in FILES}
    found = whole.states()
    assert set(found) == nodes
    assert all(ran[0] == "COMPLETE" for ran in found.values())


def test_the_local_run_makes_the_same_weights(whole, local):
    folder, _ = local
    for node, (stage, name) in SAME.items():
        (wanted,) = folder.glob(f"*-{stage}/{name}")
        assert content_hash(file_in(whole.model_of(node))) == content_hash(wanted), node


def test_the_local_run_measures_the_same(whole, local):
    _, report = local
    for node, stage in (("Distill", "distill"), ("Compress", "compress")):
        found = whole.properties_of(whole.model_of(node))
        after = figures_of(report, stage)["after"]
        assert {key: found[key] for key in after} == pytest.approx(after)
        assert found["data_fingerprint"] == report["dataset"]["fingerprint"]
        assert found["tfcompress"] == report["tfcompress"]
    rows = {row["name"]: row for row in figures_of(report, "evaluate")["files"]}
    for name in ("float32", "int8"):
        (blessing,) = whole.folder.glob(f"artefacts/EvaluateTFLite_{name}/blessing/*")
        figures = json.loads((blessing / "report.json").read_text())["figures"]
        row = rows[f"compressed {name}"]
        for key in ("accuracy", "bytes", "samples"):
            assert figures[key] == pytest.approx(row[key]), (name, key)


def test_what_an_artefact_holds(whole):
    folder = whole.model_of("Compress")
    assert (folder / KERAS_FILE).is_file()
    assert (folder / "Format-Serving" / "saved_model.pb").is_file()
    file = whole.model_of("ExportTFLite_int8") / TFLITE_FILE
    said = inspect_tflite(file).metadata
    assert said["labels"] == [str(n) for n in range(10)]
    found = whole.properties_of(whole.model_of("ExportTFLite_int8"))
    assert found["content_sha256"] == content_hash(file)


def test_what_is_good_enough_is_blessed_and_pushed(whole):
    for name in FILES:
        (blessing,) = whole.folder.glob(f"artefacts/EvaluateTFLite_{name}/blessing/*")
        assert (blessing / "BLESSED").exists()
        (version,) = whole.pushed(name)
        pushed = version / "tflite"
        nodes = {"quantized": "Quantize"}
        made = whole.model_of(nodes.get(name, f"ExportTFLite_{name}")) / TFLITE_FILE
        assert pushed.read_bytes() == made.read_bytes()


def test_evaluator_measures_the_compressed_model_beside_its_teacher(whole, local):
    """By TFMA, on the SavedModel and the same split as everything else."""
    (folder,) = whole.folder.glob("artefacts/Evaluator/evaluation/*")
    images, labels = load_dataset(whole.recipe.dataset).arrays("test")
    for node, model_name in (("Compress", "candidate"), ("Teacher", "baseline")):
        result = load_eval_result(str(folder), model_name=model_name)
        metrics = result.get_metrics_for_slice()
        model = keras.models.load_model(whole.model_of(node) / KERAS_FILE)
        wanted = np.mean(model.predict(images, verbose=0).argmax(-1) == labels)
        found = metrics["sparse_categorical_accuracy"]["doubleValue"]
        assert found == pytest.approx(wanted, abs=1e-6)
        assert metrics["example_count"]["doubleValue"] == len(labels)


def without_delegates(file, images):
    """Classes by TensorFlow's interpreter."""
    import tensorflow as tf

    kernels = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(str(file), experimental_op_resolver_type=kernels)
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry, images)
    interpreter.invoke()
    end = interpreter.get_output_details()[0]["index"]
    return interpreter.get_tensor(end).argmax(-1)


@pytest.mark.parametrize("name", FILES)
def test_tfma_gives_a_file_the_score_of_the_interpreter(whole, name, tmp_path):
    """TFMA feeds zeros, silently, to inputs that are not called as a feature is."""
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.proto import config_pb2

    node = {"quantized": "Quantize"}.get(name, f"ExportTFLite_{name}")
    folder = whole.model_of(node)
    config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key="label", model_type="tf_lite")],
        slicing_specs=[config_pb2.SlicingSpec()],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(class_name="SparseCategoricalAccuracy")
                ]
            )
        ],
    )
    (examples,) = whole.folder.glob("artefacts/ImportExampleGen/examples/*")
    images, labels = load_dataset(whole.recipe.dataset).arrays("test")
    results = tfma.run_model_analysis(
        eval_shared_model=tfma.default_eval_shared_model(
            str(folder / "Format-Serving"), eval_config=config
        ),
        eval_config=config,
        data_location=str(examples / "Split-eval" / "*"),
        output_path=str(tmp_path / "tfma"),
    )
    found = results.get_metrics_for_slice()["sparse_categorical_accuracy"]
    # TFMA takes TFLite's own kernels, not XNNPACK's: integers round differently there.
    direct = np.mean(without_delegates(folder / TFLITE_FILE, images) == labels)
    assert found["doubleValue"] == pytest.approx(direct, abs=1e-6)
    assert direct > 0.5  # Chance is 0.1.
    ours = evaluate_file(
        str(folder), examples=str(examples), dataset={}, baseline=None, latency_runs=0
    )
    images_apart = 0 if name == "float32" else 3
    assert abs(ours["accuracy"] - direct) * len(labels) < images_apart + 0.5


def test_two_interpreters_of_a_file_agree(whole):
    """The artefact's file is an ordinary one, whatever its name."""
    images, _ = load_dataset(whole.recipe.dataset).arrays("test")
    file = whole.model_of("ExportTFLite_float32") / TFLITE_FILE
    once, again = (TFLiteModel(file).predict(images[:16]) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_a_second_run_is_cached_and_a_change_runs_only_what_follows(whole):
    """One after the other: the second run sees the first, the third both."""
    before = whole.states()
    whole.run()
    after = whole.states()
    for node, ran in after.items():
        assert ran[len(before[node]) :] == ["CACHED"], node
    # Limits that no file can meet: not blessed, not pushed, and the run succeeds.
    pushed = {name: len(whole.pushed(name)) for name in FILES}
    strict = {"latency_runs": 5, "warmup": 1, "thresholds": {"max_bytes": 10}}
    whole.write([*STAGES[:-1], {"evaluate": strict}])
    whole.run()
    whole.write(STAGES)
    last = {node: ran[-1] for node, ran in whole.states().items()}
    changed = {f"EvaluateTFLite_{x}" for x in FILES} | {f"Pusher_{x}" for x in FILES}
    assert {node for node, state in last.items() if state != "CACHED"} == changed
    assert all(last[node] == "COMPLETE" for node in changed)
    assert {name: len(whole.pushed(name)) for name in FILES} == pushed
    for name in FILES:
        folders = whole.folder.glob(f"artefacts/EvaluateTFLite_{name}/blessing/*")
        newest = max(folders, key=lambda path: int(path.name))
        assert "bytes" in (newest / "NOT_BLESSED").read_text()
        assert whole.properties_of(newest)["blessed"] == 0
        assert "max_bytes 10" in whole.properties_of(newest)["failures"]


def test_a_run_that_fell_over_goes_on_where_it_was(tmp_path, monkeypatch):
    from tfcompress.tfx import component

    stages = [
        {"teacher": {"network": NETWORK, "steps": 8}},
        {"export_tflite": {"quantization": ["float32"]}},
    ]
    run = Run(tmp_path / "run", stages)
    whole_step = component.run_stage

    def fall(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(component, "run_stage", fall)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert "Pusher_float32" not in run.states() or not run.pushed("float32")
    monkeypatch.setattr(component, "run_stage", whole_step)
    run.run()
    found = run.states()
    assert found["Teacher"] == ["COMPLETE", "CACHED"]
    assert found["ExportTFLite_float32"][-1] == "COMPLETE"
    assert len(run.pushed("float32")) == 1


def test_an_imported_teacher_instead_of_a_trained_one(whole, tmp_path):
    stages = [
        {"teacher": {}},
        {
            "compress": {
                "target": {"macs": 0.8},
                "max_drop": 1.0,
                "steps": 8,
                "rounds": 1,
            }
        },
        {"export_tflite": {"quantization": ["float32"]}},
    ]
    uri = str(whole.model_of("Teacher"))
    run = Run(tmp_path / "run", stages, teacher_uri=uri).run()
    assert "Teacher" not in run.states()
    found = run.properties_of(run.model_of("Compress"))
    teacher = whole.properties_of(whole.model_of("Distill"))
    assert found["macs"] <= 0.8 * teacher["macs"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"teacher": {}}, {"compress": {"target": {"macs": 0.5}}}], "export_tflite"),
        ([{"teacher": {}}, {"export_tflite": {}}], None),
    ],
)
def test_recipes_that_are_no_pipeline(tmp_path, stages, message):
    run = Run(tmp_path / "run", stages)
    if message is not None:
        with pytest.raises(RecipeError, match=message):
            run.pipeline()
        return
    text = run.file.read_text().replace(f"examples: {run.examples}", "name: digits")
    run.file.write_text(text.replace("  name: digits\n  name", "  name"))
    with pytest.raises(RecipeError, match="examples: DIR"):
        run.pipeline()


def test_artefacts_are_of_the_standard_types(whole):
    from ml_metadata import metadata_store

    store = metadata_store.MetadataStore(whole.metadata)
    known = {
        getattr(standard_artifacts, name).TYPE_NAME
        for name in ("Examples", "Model", "ModelBlessing", "ModelRun", "PushedModel")
    } | {standard_artifacts.ModelEvaluation.TYPE_NAME}
    assert {one.name for one in store.get_artifact_types()} <= known
    assert states(whole.metadata)
