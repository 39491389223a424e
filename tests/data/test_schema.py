"""Features by a schema of TensorFlow Metadata."""

import pytest

from tfcompress.data import DatasetError, load_dataset, write_examples
from tfcompress.data.schema import schema_options

SCHEMA = """
feature { name: "picture" type: FLOAT presence { min_fraction: 1.0 }
          shape { dim { size: 8 } dim { size: 8 } dim { size: 1 } } }
feature { name: "flat" type: FLOAT shape { dim { size: 64 } } }
feature { name: "digit" type: INT int_domain { min: 0 max: 9 } }
feature { name: "pixel_0" type: FLOAT }
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "schema.pbtxt"
    file.write_text(SCHEMA)
    return str(file)


def test_names_shape_and_classes(path):
    names = {"image": "picture", "label": "digit"}
    found = schema_options(path, {"features": names, "pixel_range": (-1, 1)})
    assert found["features"] == names | {"shape": [8, 8, 1]}
    assert found["class_names"] == [str(number) for number in range(10)]
    assert found["pixel_range"] == (-1, 1)


def test_what_is_said_goes_before_the_schema(path):
    names = {"image": "picture", "label": "digit", "shape": [4, 16, 1]}
    found = schema_options(path, {"features": names, "class_names": ["a", "b"]})
    assert found["features"]["shape"] == [4, 16, 1]
    assert found["class_names"] == ["a", "b"]
    flat = schema_options(path, {"features": {"image": "flat", "label": "digit"}})
    assert "shape" not in flat["features"]
    columns = schema_options(path, {"features": {"image": "pixel_*", "label": "digit"}})
    assert columns["features"]["image"] == "pixel_*"


def test_mistakes(path, tmp_path):
    with pytest.raises(
        DatasetError, match="no feature 'image' for the image; it has digit, flat"
    ):
        schema_options(path, {})
    with pytest.raises(DatasetError, match="no feature 'label' for the label"):
        schema_options(path, {"features": {"image": "picture"}})
    with pytest.raises(DatasetError, match="does not exist"):
        schema_options(str(tmp_path / "none.pbtxt"), {})
    (tmp_path / "damaged").write_text("feature { name: ")
    with pytest.raises(DatasetError, match="is not a schema in text form"):
        schema_options(str(tmp_path / "damaged"), {})


def test_it_gives_what_the_examples_say_themselves(tmp_path):
    data = load_dataset("digits")
    folder = write_examples(data, tmp_path / "examples")
    schema = tmp_path / "schema.pbtxt"
    schema.write_text(
        'feature { name: "image" type: FLOAT '
        "shape { dim { size: 8 } dim { size: 8 } } }"
        'feature { name: "label" type: INT int_domain { max: 9 } }'
    )
    options = schema_options(str(schema), {"examples": str(folder)})
    found = load_dataset(options)
    assert found.fingerprint == load_dataset({"examples": str(folder)}).fingerprint
    assert found.class_names == data.class_names
