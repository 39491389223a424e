"""Export of Keras models as a SavedModel, for TensorFlow Serving and TFX."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.deploy.convert import SIGNATURE, quiet_conversion
from tfcompress.deploy.export import unwritable
from tfcompress.deploy.forms import ExportError
from tfcompress.deploy.interface import describe
from tfcompress.deploy.metadata import model_description
from tfcompress.deploy.parity import check_parity

# TensorFlow Serving leaves this folder of a SavedModel to its users.
_DESCRIPTION = Path("assets.extra") / "tfcompress.json"


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    input_shapes: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as a SavedModel, loads it again and compares the outputs.

    It loads without tfcompress and Keras. Its signature `serving_default` bears the
    same names as the file of `export_tflite`, and the model is in inference mode.

    Args:
        model: a built Keras model with the TensorFlow backend; it is not changed.
        path: folder to write. An older SavedModel there is replaced once the new one
            is whole; any other folder with contents is refused.
        input_shapes: see `export_tflite`.
        metadata: plain data that `assets.extra/tfcompress.json` shall hold, beside
            the versions and the hash of the weights.

    Returns:
        The path of the folder.

    Raises:
        ExportError: the model cannot be written, gives other outputs when it is loaded
            again, or the path cannot be written.

    Example:
        >>> export_saved_model(model, "serving/1")
        PosixPath('serving/1')
    """
    path = Path(path)
    _check_place(path)
    interface = describe(model, input_shapes)
    description = model_description(model, metadata)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        _write(model, interface, temporary)
        check_parity(path.name, interface, _runner(temporary))
        place = temporary / _DESCRIPTION
        place.parent.mkdir()
        place.write_text(json.dumps(description, indent=1, sort_keys=True))
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _check_place(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise ExportError(
            f"A SavedModel is a folder, and this is a file. Received: {path}"
        )
    if any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise ExportError(
            f"The folder holds something else than a SavedModel; choose another one. "
            f"Received: {path}"
        )


def _write(model: keras.Model, interface: Any, folder: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    try:
        with quiet_conversion():
            archive.add_endpoint(SIGNATURE, interface.call, [interface.specs])
            archive.write_out(str(folder), verbose=False)
    except OSError:
        raise
    # Tracing runs the caller's layers, which may raise anything.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"Model '{model.name}' cannot be written as a SavedModel: {first[:300]}"
        ) from error


def _runner(folder: Path) -> Any:
    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        signature = tf.saved_model.load(str(folder)).signatures[SIGNATURE]
        return signature(**{key: tf.constant(value) for key, value in feeds.items()})

    return run
