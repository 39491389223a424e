"""Models with some layers replaced, factorized, or expanded to stock layers."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfcompress.layers import FactorizedLayer, registry
from tfcompress.linalg import Moments
from tfcompress.surgery.rebuild import Chain, Rebuild
from tfcompress.trace import leaves


def replace_layers(
    model: keras.Model, replacements: Mapping[str, keras.layers.Layer | Chain]
) -> keras.Model:
    """A copy of a model in which some layers are others.

    Handles Sequential, Functional and nested models, shared layers, several inputs
    and outputs. A subclassed model is rebuilt from its configuration, and layers are
    put in by attribute.

    Args:
        model: a built model; it is not changed.
        replacements: built layers, or chains of built layers, by path (see
            `tfcompress.trace.leaves`). A subclassed model takes no chains, nor do
            projections of attention ("attention/query"), which are EinsumDense layers,
            stock or factorized.

    Returns:
        A new, uncompiled model with the same name, weights (other than of replaced
        layers) and `trainable` flags.

    Raises:
        KeyError: a path that names no layer.
        UnsupportedModelError: the model cannot be rebuilt.

    Example:
        >>> head = keras.layers.Dense(5, name="head")
        >>> head.build((None, 144))
        >>> replace_layers(model, {"head": head}).output_shape
        (None, 5)
    """
    known = leaves(model)
    paths = {id(layer): path for path, layer in known}
    unknown = set(replacements) - set(paths.values())
    if unknown:
        raise KeyError(f"No layer '{sorted(unknown)[0]}' in model '{model.name}'.")
    rebuild = Rebuild({i: replacements.get(path) for i, path in paths.items()})
    new = rebuild.model(model)
    rebuild.copy_state()
    return new


def copy_model(model: keras.Model) -> keras.Model:
    """A copy with its own layers and weights; uncompiled.

    Args:
        model: a built model; it is not changed.

    Raises:
        UnsupportedModelError: the model cannot be rebuilt.

    Example:
        >>> copy_model(model) is model
        False
    """
    return replace_layers(model, {})


def factorize(
    model: keras.Model,
    choices: Mapping[str, tuple[str, tuple[int, ...]]],
    statistics: Mapping[str, Moments] | None = None,
) -> keras.Model:
    """A copy of a model in which the chosen layers are factorized.

    Args:
        model: a built model; it is not changed.
        choices: for each layer path the layer type's name and its ranks. A layer that
            is of that type already is truncated in core form.
        statistics: moments of the layers' inputs by path, see
            `tfcompress.statistics`; layers without any get plain factors.

    Returns:
        A new, uncompiled model.

    Raises:
        KeyError: a path that names no layer.
        RankError: ranks out of range.
        ValueError: a layer type that cannot replace the layer.

    Example:
        >>> small = factorize(model, {"head": ("FactorizedDense", (4,))})
        >>> model.count_params(), small.count_params()
        (1610, 786)
    """
    by_path = dict(leaves(model))
    new = {}
    for path, (type_name, ranks) in choices.items():
        if path not in by_path:
            raise KeyError(f"No layer '{path}' in model '{model.name}'.")
        moments = (statistics or {}).get(path)
        new[path] = _factorized(by_path[path], type_name, ranks, moments)
    return replace_layers(model, new)


def _factorized(
    layer: keras.layers.Layer,
    type_name: str,
    ranks: tuple[int, ...],
    moments: Moments | None,
) -> FactorizedLayer:
    cls = registry.get(type_name)
    if type(layer) is cls:
        return layer.truncate(ranks, moments)
    return cls.from_layer(layer, ranks, moments)


def expand(model: keras.Model) -> keras.Model:
    """A copy in which every factorized layer is a chain of stock Keras layers.

    For files that must load without tfcompress, and for tools that know only stock
    layers. Same outputs; kernel regularizers of factorized layers are left behind.

    Keras' attention layers hold one layer for each projection: factorized projections
    become dense again, so attention is as large as it was before compression, at the
    outputs of the compressed one. Such models are better saved as they are.

    Args:
        model: a built Sequential or Functional model.

    Raises:
        UnsupportedModelError: a subclassed model holds a factorized layer.

    Example:
        >>> small = factorize(model, {"head": ("FactorizedDense", (4,))})
        >>> [layer.name for layer in expand(small).layers]
        ['conv', 'flatten', 'head_u', 'head_v']
    """
    known = leaves(model)
    parts = {id(part) for _, x in known for part in registry.parts(x).values()}
    stock = {
        path: layer.merged() if id(layer) in parts else layer.expand()
        for path, layer in known
        if isinstance(layer, FactorizedLayer)
    }
    return replace_layers(model, stock)
