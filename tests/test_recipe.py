"""Recipes: what is accepted, and how mistakes are named."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from tfcompress.errors import RecipeError
from tfcompress.recipe import load_recipe, parse_recipe
from tfcompress.stages import STAGES, Compress, Teacher

RECIPES = sorted(Path("pipelines/recipes").glob("*.yaml"))


def minimal(**options):
    return {"dataset": "digits", "stages": [{"teacher": {}}], **options}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = load_recipe(path)
    assert [stage.name for stage in recipe.stages][0] == "teacher"


def test_defaults_are_filled_in():
    recipe = parse_recipe(minimal())
    assert recipe.stages == (Teacher(),)
    assert recipe.seed == 0


def test_round_trip_through_plain_data():
    data = minimal(seed=3, name="x")
    data["stages"].append({"compress": {"target": {"macs": 0.3, "params": 0.5}}})
    recipe = parse_recipe(data)
    again = parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_dict())))
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_a_preset_fills_in_what_is_not_said():
    options = {"preset": "oxford_flowers102/1000", "weight_decay": 0.5}
    data = minimal(stages=[{"teacher": {}}, {"distill": options}])
    stage = parse_recipe(data).stages[1]
    assert (stage.epochs, stage.temperature, stage.batch_size) == (1000, 10.0, 512)
    assert (stage.learning_rate, stage.weight_decay) == (3e-3, 0.5)
    assert (stage.views.mode, stage.views.crop) == ("function_matching", "inception")
    options["steps"] = 10
    shorter = parse_recipe(data).stages[1]
    assert (shorter.steps, shorter.epochs) == (10, None)


def test_every_field_changes_the_digest():
    recipe = parse_recipe(minimal())
    for change in ({"seed": 1}, {"name": "other"}, {"dataset": "fashion_mnist"}):
        assert parse_recipe(minimal(**change)).digest() != recipe.digest()
    other = minimal(stages=[{"teacher": {"steps": 7}}])
    assert parse_recipe(other).digest() != recipe.digest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"datset": "digits"}, "Unknown recipe key 'datset'; did you mean 'dataset'?"),
        ({"stages": [{"teacher": {"stpes": 3}}]}, "did you mean 'steps'?"),
        (
            {"stages": [{"teacher": {"network": {"dept": 8}}}]},
            "Unknown key 'teacher.network.dept'; did you mean 'depth'?",
        ),
        ({"stages": [{"techer": {}}]}, "No stage 'techer'; did you mean 'teacher'?"),
        ({"dataset": {"nam": "digits"}}, "did you mean 'name'?"),
        ({"stages": [{"teacher": {"steps": "many"}}]}, "teacher.steps: "),
        ({"stages": []}, "stages must be a list"),
        ({"stages": [{"teacher": {}}, {"teacher": {}}]}, "stands twice"),
        ({"stages": [{"distill": {}}]}, "needs the artefact 'teacher'"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"name": "a/b"}, "name must be a word"),
        (
            {"stages": [{"teacher": {}}, {"compress": {"target": {"macs": 1.5}}}]},
            "Received: macs=1.5",
        ),
        (
            {"stages": [{"teacher": {}}, {"compress": {"selector": "enrgy"}}]},
            "did you mean 'energy'?",
        ),
        (
            {"stages": [{"teacher": {}}, {"distill": {"views": {"crop": "mld"}}}]},
            "did you mean 'mild'?",
        ),
        (
            {"stages": [{"teacher": {}}, {"export_tflite": {"quantization": ["i8"]}}]},
            "No quantization 'i8'",
        ),
        (
            {"stages": [{"teacher": {}}, {"distill": {"loss": "kll"}}]},
            "No loss 'kll'; did you mean 'kl'?",
        ),
        (
            {"stages": [{"teacher": {}}, {"distill": {"algorithm": "soup"}}]},
            "did you mean 'soap'?",
        ),
        (
            {"stages": [{"teacher": {}}, {"distill": {"warmup_steps": -1}}]},
            "warmup_steps must be at least 0",
        ),
        (
            {"stages": [{"teacher": {}}, {"distill": {"preset": "food101/10"}}]},
            "distill.preset: No run 'food101/10'; did you mean 'food101/100'?",
        ),
        (
            {"stages": [{"teacher": {"preset": "food101/100"}}]},
            "teacher.preset: Stage 'teacher' has no presets",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(data, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe({**minimal(), **data})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "dataset: digits\nstages:\n- teacher: {steps: 5}\n- compress:\n- evaluate\n"
    )
    recipe = load_recipe(
        path,
        [
            "dataset=fashion_mnist",
            "seed=4",
            "teacher.steps=9",
            "teacher.network.depth=14",
            "compress.target.macs=0.25",
            "evaluate.latency_runs=7",
        ],
    )
    assert recipe.name == "r"
    assert recipe.dataset.name == "fashion_mnist"
    assert recipe.seed == 4
    assert recipe.stages[0].steps == 9
    assert recipe.stages[0].network.depth == 14
    assert recipe.stages[1].target.macs == 0.25
    assert recipe.stages[2].latency_runs == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset", "An override is key=value"),
        ("distil.steps=3", "the recipe has no 'distil'"),
        ("seed.x=3", "not inside a mapping"),
        ("teacher.stepz=3", "did you mean 'steps'?"),
        ("dataset=[", "not YAML"),
    ],
)
def test_bad_overrides(tmp_path, override, message):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**minimal(), "seed": 1}))
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        load_recipe(path, [override])


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")
    for text in ("- a\n- b\n", "just words", ""):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(RecipeError, match="must be a mapping"):
            load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(RecipeError, match="Cannot read recipe"):
        load_recipe(tmp_path / "bad.yaml")


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    marker = tmp_path / "marker"
    path.write_text(f"x: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(path)
    assert not marker.exists()


def test_every_stage_is_a_frozen_dataclass_with_a_name():
    for name, stage in STAGES.items():
        assert stage.name == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            stage().needs_no_setting = 1


def test_python_construction_checks_the_same():
    with pytest.raises(ValueError, match="did you mean 'energy'"):
        Compress(selector="enrgy")
