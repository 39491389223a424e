"""What a schema of TensorFlow Metadata says of the image and its label."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from tfcompress.data.spec import DatasetError


def schema_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a data set of tf.Examples, with what a schema adds to them.

    The image's shape comes from the feature's fixed shape, the names of the classes
    from the largest number in the label's domain. What the options say goes before.

    Args:
        path: a `schema.pbtxt`, anywhere that `tf.io.gfile` reads.
        options: of `DatasetSpec`; `features` names image and label where they are not
            called "image" and "label".

    Raises:
        DatasetError: no such file, no schema, or one without the image or the label.
    """
    schema = _read(path)
    held = {feature.name: feature for feature in schema.feature}
    features = dict(options.get("features") or {})
    image = features.setdefault("image", "image")
    label = features.setdefault("label", "label")
    for what, name in (("image", image), ("label", label)):
        if not any(fnmatch.fnmatchcase(other, name) for other in held):
            raise DatasetError(
                f"the schema '{path}' has no feature '{name}' for the {what}; it has "
                f"{', '.join(sorted(held)) or 'none'}: say features: {{{what}: NAME}}"
            )
    dims = [dim.size for dim in held[image].shape.dim] if image in held else []
    if len(dims) == 3:
        features.setdefault("shape", dims)
    elif len(dims) == 2:
        features.setdefault("shape", [*dims, 1])
    found: dict[str, Any] = {**options, "features": features}
    largest = held[label].int_domain.max
    if largest > 0 and not found.get("class_names"):
        found["class_names"] = [str(number) for number in range(largest + 1)]
    return found


def _read(path: str) -> Any:
    from google.protobuf import text_format
    from tensorflow.io import gfile
    from tensorflow_metadata.proto.v0 import schema_pb2

    if not gfile.exists(path):
        raise DatasetError(f"schema '{path}' does not exist; check the path")
    try:
        with gfile.GFile(path) as file:
            return text_format.Parse(file.read(), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"'{path}' is not a schema in text form ({str(error)[:100]}); "
            "SchemaGen and ImportSchemaGen make one"
        ) from error
