"""The registry of factorized layer types: one file in this folder, one line here."""

from __future__ import annotations

import keras

from tfcompress.errors import nearest

_TYPES: dict[str, type] = {}

PACKAGE = "tfcompress"


def register(cls: type) -> type:
    """Class decorator: makes a layer type known to planning and to `.keras` files.

    Example:
        >>> @register                                   # doctest: +SKIP
        ... class MyConv2D(FactorizedLayer): ...
    """
    if cls.__name__ in _TYPES:
        raise ValueError(f"Layer type {cls.__name__} is already registered.")
    _TYPES[cls.__name__] = cls
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)


def names() -> tuple[str, ...]:
    """Names of all registered layer types, in order of registration."""
    return tuple(_TYPES)


def get(name: str) -> type:
    """The layer type of that name.

    Raises:
        ValueError: no such type; names the nearest one.
    """
    if name not in _TYPES:
        raise ValueError(f"No layer type '{name}'; {nearest(name, _TYPES)}")
    return _TYPES[name]


def options(layer: keras.layers.Layer) -> tuple[tuple[str, ...], str | None]:
    """Layer types that can replace a layer.

    Args:
        layer: a built Keras layer, stock or factorized.

    Returns:
        `(names, None)`, or `((), reason)` where no type can.
    """
    if type(layer) in _TYPES.values():
        return (type(layer).__name__,), None
    reasons = []
    found = []
    for name, cls in _TYPES.items():
        if type(layer) not in cls.targets:
            continue
        reason = cls.supports(layer)
        if reason is None:
            found.append(name)
        else:
            reasons.append(reason)
    if found:
        return tuple(found), None
    return (), reasons[0] if reasons else _reason_for_type(layer)


_KNOWN_REASONS = {
    "DepthwiseConv1D": "depthwise convolution: no channel mode to factorize",
    "DepthwiseConv2D": "depthwise convolution: no channel mode to factorize",
    "SeparableConv1D": "separable convolution: already factorized",
    "SeparableConv2D": "separable convolution: already factorized",
    "Conv1DTranspose": "transposed convolution: no factorized type yet",
    "Conv2DTranspose": "transposed convolution: no factorized type yet",
    "Conv3DTranspose": "transposed convolution: no factorized type yet",
    "Conv1D": "Conv1D: no factorized type yet",
    "Conv3D": "Conv3D: no factorized type yet",
    "EinsumDense": "EinsumDense: no factorized type yet",
    "MultiHeadAttention": "attention projections: no factorized type yet",
    "Embedding": "Embedding: no factorized type yet",
}


def _reason_for_type(layer: keras.layers.Layer) -> str:
    kind = type(layer).__name__
    if kind in _KNOWN_REASONS:
        return _KNOWN_REASONS[kind]
    if not layer.weights:
        return "no weights"
    return f"{kind}: no kernel to factorize"
