"""Models that give the outputs of inner layers as well."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfcompress.distill.outputs import DistillationError
from tfcompress.errors import nearest
from tfcompress.trace import leaves


def with_features(model: keras.Model, paths: Sequence[str]) -> keras.Model:
    """A model of the same layers that gives `(outputs, [features])`.

    Args:
        model: a Functional or Sequential model.
        paths: names of layers, or paths (see `tfcompress.trace.leaves`) at its top
            level.

    Raises:
        DistillationError: an unknown layer, or one inside another model.
    """
    if not getattr(model, "inputs", None):
        raise DistillationError(
            f"Features are taken from Functional and Sequential models. "
            f"Received: '{model.name}' of type {type(model).__name__}"
        )
    tensors = []
    top = {layer.name: layer for layer in model.layers}
    for path in paths:
        if path not in top:
            inner = [p for p, _ in leaves(model) if p == path]
            reason = (
                "it lies inside another layer: only layers of the model itself can be "
                "tapped"
                if inner
                else nearest(path, top)
            )
            raise DistillationError(f"No layer '{path}' in '{model.name}'; {reason}")
        tensors.append(top[path].output)
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], [model.outputs[0], tensors])
    return keras.Model(model.input, [model.output, tensors])
