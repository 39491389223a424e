"""What `evaluate` looks at beside the files' scores: layers, and rounds' latency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.errors import TfcompressError

if TYPE_CHECKING:
    import keras

    from tfcompress.data import Dataset

# Samples whose layers are compared, and their pixels together: all results of all
# layers are held at once, so images of more pixels are fewer.
_SAMPLES = 64
_PIXELS = 64 * 64 * 64


def quantization_errors(
    files: Mapping[str, Path], model: keras.Model, data: Dataset, *, seed: int
) -> dict[str, Any]:
    """Errors of every layer in quantized files of one model.

    Args:
        files: `.tflite` files by name.
        model: the Keras model they were made of.
        data: calibration images are taken from its training split.
        seed: chooses them.

    Returns:
        "samples", and "files": by name a list of errors as `layer_errors` gives them,
        or the reason why there are none.
    """
    from tfcompress.deploy import layer_errors

    height, width = data.image_shape[:2]
    samples = min(max(_PIXELS // (height * width), 1), _SAMPLES)
    inputs = data.calibration(samples, seed=seed)
    found: dict[str, Any] = {}
    for name, path in files.items():
        try:
            found[name] = [x.to_dict() for x in layer_errors(path, model, inputs)]
        except TfcompressError as error:
            # The report is worth having without them; it says why they are missing.
            found[name] = str(error)
    return {"samples": samples, "files": found}


def export_rounds(
    compressed: Path, start: keras.Model, folder: Path
) -> dict[str, Path]:
    """Float32 files of every round's candidate, those rolled back included.

    A file's latency depends on the ranks, not on what the weights were trained to: the
    networks are made anew from the plans.

    Args:
        compressed: the artefact of the stage `compress`; its plans lie beside it.
        start: the model that the stage started from.
        folder: where to write.

    Returns:
        The files, as "round 1" and so on; none where no plans lie there, as after
        `fine_tune`.
    """
    from tfcompress.deploy import export_tflite
    from tfcompress.surgery import factorize

    plans = compressed.parent / "rounds.json"
    if not plans.is_file():
        return {}
    files = {}
    current = start
    for index, entry in enumerate(json.loads(plans.read_text()), start=1):
        choices = {
            row["name"]: (row["layer_type"], tuple(row["ranks"]))
            for row in entry["plan"]["layers"]
            if row["changed"]
        }
        candidate = factorize(current, choices)
        name = f"round {index}"
        files[name] = export_tflite(candidate, folder / f"round_{index}.tflite")
        if entry["accepted"]:
            current = candidate
    return files
