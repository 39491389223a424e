"""The registry of factorized layer types: one file in this folder, one line here."""

from __future__ import annotations

import keras

from tfcompress.errors import nearest

_TYPES: dict[str, type] = {}
_COMPOSITES: list[type] = []

PACKAGE = "tfcompress"


def register(cls: type) -> type:
    """Class decorator: makes a layer type known to planning and to `.keras` files.

    Args:
        cls: a subclass of `FactorizedLayer`.

    Returns:
        The class.

    Raises:
        ValueError: a type of that name exists already.

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


def types_for(layer: keras.layers.Layer) -> tuple[type, ...]:
    """Layer types made for layers of exactly this class, in order of registration."""
    return tuple(cls for cls in _TYPES.values() if type(layer) in cls.targets)


def register_composite(cls: type) -> type:
    """Class decorator: a layer whose inner layers are replaced one by one.

    It is known to `.keras` files like a layer type. The class has

    - `targets`: the stock classes it stands for;
    - `parts(layer)`: the inner layers of a built layer, stock or its own, that may be
      replaced, by name;
    - `with_parts(layer, parts)`: a copy of such a layer with some of them replaced.
    """
    _COMPOSITES.append(cls)
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)


def composite_for(layer: keras.layers.Layer) -> type | None:
    """The composite class that opens a layer; None for a layer that stays whole."""
    for cls in _COMPOSITES:
        # Exact classes: what the `call` of a subclass does is unknown.
        if type(layer) is cls or type(layer) in cls.targets:
            return cls
    return None


def parts(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """Inner layers of a built layer that are replaced one by one, by name."""
    cls = composite_for(layer)
    return cls.parts(layer) if cls is not None and layer.built else {}


def is_own(layer: keras.layers.Layer) -> bool:
    """Whether a layer is of this library: factorized, or with factorized parts."""
    return type(layer) in _TYPES.values() or type(layer) in _COMPOSITES


def options(layer: keras.layers.Layer) -> tuple[tuple[str, ...], str | None]:
    """Layer types that can replace a layer.

    Args:
        layer: a built Keras layer, stock or factorized.

    Returns:
        `(names, None)`, or `((), reason)` where no type can.
    """
    if type(layer) in _TYPES.values():
        return (type(layer).__name__,), None
    reasons = {cls.__name__: cls.supports(layer) for cls in types_for(layer)}
    found = tuple(name for name, reason in reasons.items() if reason is None)
    if found:
        return found, None
    return (), next(iter(reasons.values()), None) or _reason_for_type(layer)


_RECURRENT = "recurrent: no factorized type"
_TRANSPOSED = "transposed convolution: no factorized type"
_DEPTHWISE = "depthwise convolution: no channel mode to factorize"
_KNOWN_REASONS = {
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "Bidirectional": _RECURRENT,
    "ConvLSTM1D": _RECURRENT,
    "ConvLSTM2D": _RECURRENT,
    "ConvLSTM3D": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "RNN": _RECURRENT,
    "SimpleRNN": _RECURRENT,
}


def _reason_for_type(layer: keras.layers.Layer) -> str:
    kind = type(layer).__name__
    if kind in _KNOWN_REASONS:
        return _KNOWN_REASONS[kind]
    if composite_for(layer) is not None:
        return "its projections are replaced one by one"
    if not layer.weights:
        return "no weights"
    known = {target for cls in _TYPES.values() for target in cls.targets}
    for base in type(layer).__mro__[1:]:
        if base in known:
            return f"{kind}: a subclass of {base.__name__}, its call may differ"
    if layer._layers:
        return f"{kind}: a layer made of layers is not opened"
    return f"{kind}: no kernel to factorize"
