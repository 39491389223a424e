"""What a Model artefact of TFX holds here. This module imports no tfx.

URI/Format-Keras/model.keras    the Keras model, for the components behind
URI/Format-Serving/             a SavedModel, for Evaluator, Pusher and serving;
                                or the file `tflite`, under the name TFMA looks for
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from tfcompress.data.features import Features
from tfcompress.errors import ModelFileError
from tfcompress.tfx.transform import image_reader

KERAS_FILE = "Format-Keras/model.keras"
SERVING_FOLDER = "Format-Serving"
TFLITE_FILE = "Format-Serving/tflite"


@contextlib.contextmanager
def local_copy(uri: str, file: str) -> Iterator[Path]:
    """A file of an artefact as a local one, wherever the artefact is.

    Args:
        uri: of the artefact.
        file: its place in there.

    Raises:
        ModelFileError: the artefact does not hold it.
    """
    source = os.path.join(uri, file)
    if not tf.io.gfile.exists(source):
        ways = {
            KERAS_FILE: "train it with tfcompress.tfx.run_fn, or write the Keras model "
            "there by tfcompress.tfx.save_model",
            TFLITE_FILE: "take the output of ExportTFLite or Quantize",
        }
        raise ModelFileError(f"The model artefact '{uri}' has no {file}; {ways[file]}.")
    if os.path.exists(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, os.path.basename(file))
        tf.io.gfile.copy(source, target)
        yield Path(target)


def save_model(
    model: keras.Model,
    uri: str,
    *,
    features: Features,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    transform_graph: str | None = None,
    keras_file: Path | None = None,
) -> None:
    """Writes a Keras model into an artefact: `.keras`, and a SavedModel beside it.

    The SavedModel has two signatures: `serving_default` takes serialized tf.Examples
    (as Evaluator and bulk inference give them), `predict` the images themselves, under
    the name of the image feature ("image" where that is one feature for each pixel).

    Args:
        model: a built classifier of images with one input.
        uri: of the artefact.
        features: which feature holds the image.
        pixel_range: what bytes 0 and 255 are for the model.
        transform_graph: URI of a TransformGraph artefact: `serving_default` then takes
            examples as they were before the transformation.
        keras_file: the model as it is saved already, to be copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = keras_file or Path(folder) / "model.keras"
        if keras_file is None:
            model.save(local)
        target = os.path.join(uri, KERAS_FILE)
        tf.io.gfile.makedirs(os.path.dirname(target))
        tf.io.gfile.copy(str(local), target, overwrite=True)
    archive = keras.export.ExportArchive()
    archive.track(model)
    size = tuple(model.inputs[0].shape[1:3])
    size = None if None in size else size
    name = output_name(model)
    read, tracked = image_reader(
        features, pixel_range=pixel_range, size=size, transform_graph=transform_graph
    )
    if tracked is not None:
        archive.track(tracked)

    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: model(read(examples), training=False)}

    entry = "image" if features.columns else features.image

    def predict(images: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: model(images[entry], training=False)}

    archive.add_endpoint(
        "serving_default", serve, [tf.TensorSpec([None], tf.string, name="examples")]
    )
    shape = (None, *model.inputs[0].shape[1:])
    spec = tf.TensorSpec(shape, tf.float32, name=entry)
    archive.add_endpoint("predict", predict, [{entry: spec}])
    archive.write_out(os.path.join(uri, SERVING_FOLDER), verbose=False)


def save_tflite(file: Path, uri: str) -> None:
    """Puts a `.tflite` file into an artefact, where TFMA and Pusher take it."""
    target = os.path.join(uri, TFLITE_FILE)
    tf.io.gfile.makedirs(os.path.dirname(target))
    tf.io.gfile.copy(str(file), target, overwrite=True)


def output_name(model: keras.Model) -> str:
    """The name of a model's one output, as `export_tflite` gives it."""
    return (
        model.layers[-1].name
        if isinstance(model, keras.Sequential)
        else (model.output_names[0])
    )
