"""Models that the command line is given by path or by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfcompress.errors import ModelFileError


def open_model(model: str) -> tuple[Any, str | None]:
    """A model file, or an architecture of `keras.applications` without weights.

    Returns:
        The model, and a note for the user or None.

    Raises:
        ModelFileError: neither of both.
    """
    from tfcompress.stages import load_model

    if Path(model).exists() or "." in model or "/" in model:
        return load_model(model), None
    import keras

    maker = getattr(keras.applications, model, None)
    if not callable(maker):
        raise ModelFileError(
            f"'{model}' is neither a .keras file nor a network of keras.applications "
            "(such as VGG16, ResNet50, MobileNetV2)."
        )
    note = (
        f"{model} has random weights here: costs are right, but ranks that a selector "
        "reads off the weights will differ on a trained model."
    )
    return maker(weights=None), note
