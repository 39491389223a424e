"""Detection, segmentation and regression by recipe, at small scale."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.data import composed, load_dataset
from tfcompress.deploy import TFLiteModel
from tfcompress.distill import ViewSpec
from tfcompress.errors import ModelFileError, OptionError
from tfcompress.metric import Metric
from tfcompress.models import NETWORKS, build
from tfcompress.page import build_page, load_runs
from tfcompress.page.view import describe
from tfcompress.recipe import load_recipe, parse_recipe
from tfcompress.runner import run_recipe
from tfcompress.stages import Network, load_model
from tfcompress.tasks import task_of
from tfcompress.tasks.base import score, view_of

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"

# What makes each recipe small. Every stage, target and check is that of the recipe.
SMALL = {
    "detection": ["image_size=[32, 32]", "train_limit=64", "width=4"],
    "segmentation": ["image_size=[32, 32]", "train_limit=64", "width=4"],
    "regression": ["image_size=[16, 16]", "train_limit=128", "width=4"],
}


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    """Judged by fewer scenes than the recipes': counting up precision takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed, "SCENES", {"train": 64, "validation": 40, "test": 80})
        yield


def small(name):
    size, limit, width = SMALL[name]
    recipe = load_recipe(
        RECIPES / f"{name}.yaml",
        [
            f"dataset.{size}",
            f"dataset.{limit}",
            f"teacher.network.{width}",
            "teacher.epochs=8",
            "teacher.batch_size=16",
            "compress.epochs=1",
            "compress.rounds=1",
            "compress.calibration_steps=0",
            "compress.selector=energy",
            "compress.max_drop=1.0",
            "export_tflite.calibration=16",
            "evaluate.latency_runs=3",
            "evaluate.warmup=1",
        ],
    )
    return recipe


@pytest.fixture(scope="module", params=SMALL)
def run(request, tmp_path_factory):
    """One run for each task, of which all tests look at something else."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    recipe = small(request.param)
    return recipe, folder, run_recipe(recipe, folder)


def figures_of(report):
    return {stage["stage"]: stage["figures"] for stage in report["stages"]}


def test_a_recipe_runs_from_pixels_to_judged_files(run):
    """Minutes of tracing: each task is a promise that all stages hold."""
    recipe, folder, report = run
    metric, figures = Metric.of(report), figures_of(report)
    assert report["dataset"]["task"] == recipe.name
    assert figures["compress"]["target_met"]
    rows = {row["name"]: row for row in figures["evaluate"]["files"]}
    more = {"compressed dynamic"} if recipe.name == "regression" else set()
    assert set(rows) == more | {
        "teacher float32",
        "compressed float32",
        "compressed int8",
    }
    assert rows["compressed float32"]["macs"] <= rows["teacher float32"]["macs"] / 3
    assert rows["teacher float32"]["divergence"] < 1e-8
    data = load_dataset(recipe.dataset)
    task = task_of(data)
    model = load_model(folder / "02-compress" / "compressed.keras", data)
    by_keras = task.figures(model, data.batches("test", 256))
    by_file = rows["compressed float32"]
    assert by_file[metric.key] == pytest.approx(by_keras[metric.key], abs=1e-3)
    assert by_file["max_abs_difference_to_keras"] < 1e-3
    assert rows["compressed int8"]["divergence_to_keras"] < 0.5
    assert rows["compressed int8"]["bytes"] < by_file["bytes"]
    entry = figures["compress"]["rounds"][0]
    assert metric.key in entry["fine_tuned"] and entry["accepted"]
    text = (folder / "report.md").read_text()
    assert f"test {metric.label}" in text and "accuracy" not in text


def test_the_command_line_judges_a_file_by_the_task_s_metric(run, cli):
    recipe, folder, report = run
    height, width = recipe.dataset.image_size
    options = ["--data", recipe.dataset.name, "--image-size", f"{height},{width}"]
    code, out, _ = cli(
        *("evaluate", folder / "03-export_tflite" / "compressed_int8.tflite"),
        *(*options, "--json"),
        *("--reference", folder / "02-compress" / "compressed.keras"),
    )
    key, found = Metric.of(report).key, json.loads(out)
    rows = {row["name"]: row for row in figures_of(report)["evaluate"]["files"]}
    int8, full = rows["compressed int8"], rows["compressed float32"]
    assert code == 0 and found[key] == int8[key] and found["samples"] == int8["samples"]
    assert found["divergence"] == pytest.approx(int8["divergence_to_keras"], rel=1e-4)
    assert found[f"reference_{key}"] == pytest.approx(full[key], abs=1e-3)
    assert found["layers"]


def test_a_file_of_another_task_is_refused(run, cli):
    recipe, folder, _ = run
    other = {"detection": "scene_masks"}.get(recipe.name, "scene_boxes")
    code, _, err = cli(
        *("evaluate", folder / "03-export_tflite" / "compressed_int8.tflite"),
        *("--data", other, "--image-size", "32,32"),
    )
    assert code == 2 and "gives outputs of shape" in err and "Traceback" not in err


def test_the_report_page_is_of_the_task_s_metric(run):
    recipe, folder, report = run
    found = load_runs([folder])
    page, metric = describe(found[0]), Metric.of(report)
    card = page["headlines"][0]["cards"][0]
    row = figures_of(report)["evaluate"]["files"][1]
    assert card["title"] == metric.title
    assert card["after"] == metric.text(row[metric.key])
    # Not compared as strings: the page is of megabytes, and a failure would be shown.
    shown = f"Test {metric.label} over MACs" in build_page(found)
    assert shown


def test_the_teacher_has_learnt_something(run):
    recipe, _, report = run
    metric = Metric.of(report)
    history = figures_of(report)["teacher"]["history"]["loss"]
    assert history[-1] < 0.9 * history[0]
    assert np.isfinite(figures_of(report)["teacher"]["after"][metric.key])


def test_transposed_convolutions_are_in_the_table_with_a_reason(run):
    recipe, _, report = run
    if recipe.name != "segmentation":
        pytest.skip("only a U-Net has them")
    rows = figures_of(report)["compress"]["layers"]
    found = [row for row in rows if row["kind"] == "Conv2DTranspose"]
    assert found and all(row["reason"] or row["ranks"] for row in found)


def data_for(name, **options):
    size = json.loads(SMALL[name][0].partition("=")[2])
    composed = {"detection": "scene_boxes", "segmentation": "scene_masks"}
    return load_dataset(
        {
            "name": composed.get(name, "turned_digits"),
            "image_size": size,
            "train_limit": 8,
            **options,
        }
    )


@pytest.fixture(scope="module", params=SMALL)
def data(request):
    return data_for(request.param)


def network(data):
    task = task_of(data)
    return build(task.networks[0], data.image_shape, task.outputs, width=4, seed=0)


def test_a_student_learns_from_the_raw_outputs(data):
    """The `distill` stage's trainer: the teacher's outputs alone, no targets."""
    task = task_of(data)
    teacher = network(data)
    student = keras.models.clone_model(teacher)
    trainer, options = task.by_teacher(
        student, teacher, views=ViewSpec(mode="consistent", crop="mild"), seed=0
    )
    trainer.compile("adam", jit_compile=False, **options)
    images = data.arrays("train")[0]
    before = [np.array(w) for w in teacher.weights]
    history = trainer.fit(images, epochs=12, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for old, new in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_figures_do_not_depend_on_the_batches(data):
    task, model = task_of(data), network(data)
    few = data.batches("validation", 64)
    many = data.batches("validation", 100)
    one, other = (task.figures(model, batches, model) for batches in (few, many))
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert one["divergence"] == 0.0 and one["samples"] == data.sizes["validation"]


def test_only_its_networks_fit(data, tmp_path):
    task = task_of(data)
    for name in NETWORKS:
        if name not in task.networks:
            with pytest.raises(ModelFileError, match=f"not for {data.task}"):
                Network(network=name).make(data, seed=0)
    inputs = keras.Input(data.image_shape)
    wrong = keras.Model(inputs, keras.layers.Flatten()(inputs))
    wrong.save(tmp_path / "wrong.keras")
    with pytest.raises(ModelFileError, match=data.task):
        load_model(tmp_path / "wrong.keras", data)


@pytest.mark.parametrize(
    "stages, words",
    [
        ([{"teacher": {"views": {"crop": "inception"}}}], "teacher: views"),
        (["teacher", {"distill": {"label_weight": 0.5}}], "distill: label_weight"),
        (["teacher", {"distill": {"loss": "js"}}], "distill: loss"),
        (["teacher", {"compress": {"temperature": 2.0}}], "compress: temperature"),
        (["teacher", {"compress": {"views": {"mode": "fixed"}}}], "views.mode"),
        (["teacher", "quantize"], "quantize is for classification"),
        (["teacher", {"export_tflite": {"quantization": ["auto"]}}], "'auto'"),
        (
            ["teacher", {"evaluate": {"thresholds": {"min_accuracy": 0.5}}}],
            "min_accuracy",
        ),
    ],
)
def test_what_only_classifiers_have_is_refused_before_anything_is_written(
    stages, words, tmp_path
):
    recipe = parse_recipe({"dataset": "turned_digits", "stages": stages})
    with pytest.raises(OptionError, match=words):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_view_is_the_same_for_the_same_key():
    images = np.random.default_rng(0).random((4, 16, 16, 1)).astype("float32")
    assert view_of(ViewSpec(mode="consistent", crop="none", flip=False)) is None
    view = view_of(ViewSpec(mode="function_matching", crop="mild", flip=True))
    one, same, other = (view(images, (0, step)).numpy() for step in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_the_difference_is_relative_to_the_variance():
    class Nothing:
        def update(self, targets, outputs):
            pass

        def result(self):
            return {}

    random = np.random.default_rng(0)
    x = random.normal(size=(64, 3))
    batches = [(x[:40], x[:40]), (x[40:], x[40:])]
    found = score(lambda v: v + 0.5, batches, Nothing(), {"": lambda v: v})
    assert found["divergence"] == pytest.approx(0.25 / x.var())
    assert found["max_abs_difference"] == pytest.approx(0.5)


def test_max_drop_holds_where_less_is_better():
    """A network that the budget ruins is rolled back by its own metric."""
    from tfcompress.musco import compress
    from tfcompress.ranks import Budget, Energy

    data = data_for("regression", train_limit=32)
    model = network(data)
    task = task_of(data).loop_task(None)
    result = compress(
        model,
        data.batches("train", 16),
        data.batches("validation", 289),
        target=Budget(macs=0.3),
        selector=Energy(),
        task=task,
        rounds=1,
        retries=0,
        epochs=1,
        # Such steps ruin anything.
        learning_rate=30.0,
        max_drop=0.0,
        calibration_steps=0,
        jit_compile=False,
    )
    (only,) = result.history
    worse = only.result["mae"] > result.original["mae"]
    assert only.accepted != worse
    if worse:
        assert "mae is worse by" in only.reason and not result.target_met


def test_files_give_their_outputs_by_name(run):
    recipe, folder, _ = run
    files = sorted((folder / "03-export_tflite").glob("*.tflite"))
    names = {info.name for info in TFLiteModel(files[0]).outputs}
    if recipe.name == "regression":
        assert names == {"angle", "scale"}
    else:
        assert len(names) == 1
