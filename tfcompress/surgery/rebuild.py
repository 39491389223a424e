"""Rebuilding a model layer by layer, whatever kind of model it is."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import UnsupportedModelError
from tfcompress.layers import registry
from tfcompress.trace import descendants, input_specs, leaves

Chain = list[keras.layers.Layer]


class Rebuild:
    """One rebuilding: remembers what became of each layer, so sharing survives."""

    def __init__(self, replacements: Mapping[int, Any]) -> None:
        self._replacements = replacements
        self._chains: dict[int, Chain] = {}
        self._pairs: list[tuple[Any, Any]] = []
        self._models: list[tuple[keras.Model, keras.Model]] = []
        self._flags: list[tuple[keras.layers.Layer, bool]] = []

    def model(self, model: keras.Model) -> keras.Model:
        if not model.built:
            raise UnsupportedModelError(
                f"Model '{model.name}' is not built: call it once on data, or give it "
                "an Input layer."
            )
        if isinstance(model, keras.Sequential):
            new = self._sequential(model)
        elif _is_functional(model):
            new = self._functional(model)
        else:
            new = self._subclassed(model)
        self._models.append((model, new))
        return new

    def _layer(self, layer: keras.layers.Layer) -> Chain:
        """What a layer becomes: one new layer, or a chain of them."""
        if id(layer) not in self._chains:
            replacement = self._replacement(layer)
            if isinstance(layer, keras.Model):
                chain = [self.model(layer)]
            elif replacement is None:
                chain = [_copy_layer(layer)]
                self._pairs.append((layer, chain[0]))
            else:
                one = isinstance(replacement, keras.layers.Layer)
                chain = [replacement] if one else list(replacement)
                self._keep_flags(chain)
            self._chains[id(layer)] = chain
        return self._chains[id(layer)]

    def _replacement(self, layer: keras.layers.Layer) -> Any:
        """What a layer is replaced by, itself or in parts; None where it stays."""
        whole = self._replacements.get(id(layer))
        parts = {
            name: self._replacements[id(part)]
            for name, part in registry.parts(layer).items()
            if self._replacements.get(id(part)) is not None
        }
        if whole is not None and parts:
            raise UnsupportedModelError(
                f"Layer '{layer.name}' cannot be replaced both as a whole and in parts."
                f" Received: parts {sorted(parts)}"
            )
        if not parts:
            return whole
        return registry.composite_for(layer).with_parts(layer, parts)

    def _sequential(self, model: keras.Sequential) -> keras.Model:
        inputs = model.inputs[0]
        layers: Chain = []
        for layer in model.layers:
            layers += self._layer(layer)
        start = keras.Input(
            batch_shape=inputs.shape, dtype=inputs.dtype, name=inputs.name
        )
        return keras.Sequential([start, *layers], name=model.name)

    def _functional(self, model: keras.Model) -> keras.Model:
        chains: dict[int, Chain] = {}

        def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
            plain = not isinstance(layer, keras.layers.Layer)  # a keras.ops call
            if plain or isinstance(layer, keras.layers.InputLayer):
                return _copy_layer(layer)
            chain = self._layer(layer)
            chains[id(chain[0])] = chain
            return chain[0]

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = layer(*args, **_taken(layer, kwargs))
            for follower in chains.get(id(layer), [layer])[1:]:
                outputs = follower(outputs)
            return outputs

        return keras.models.clone_model(
            model, clone_function=clone, call_function=call, recursive=False
        )

    def _subclassed(self, model: keras.Model) -> keras.Model:
        chosen: dict[int, Any] = {}
        for _, layer in leaves(model, parts=False):
            replacement = self._replacement(layer)
            if replacement is None and registry.is_own(layer):
                # The configuration gives back the stock layer that stood there.
                replacement = _copy_layer(layer)
                replacement.build_from_config(layer.get_build_config())
                self._pairs.append((layer, replacement))
            chosen[id(layer)] = replacement
        try:
            new = type(model).from_config(model.get_config())
            twins = _twins(model, new)
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"The subclassed model '{model.name}' ({type(model).__name__}) cannot "
                f"be rebuilt: its configuration does not give it back ({reason}). "
                "Define get_config, or write it as a functional model."
            ) from error
        for old_layer, replacement in list(chosen.items()):
            if replacement is None:
                continue
            if not isinstance(replacement, keras.layers.Layer):
                raise UnsupportedModelError(
                    f"The subclassed model '{model.name}' cannot take a chain of "
                    "layers in place of one: write it as a functional model."
                )
            if not _set_attribute(new, twins[old_layer], replacement):
                raise UnsupportedModelError(
                    f"Layer '{replacement.name}' of the subclassed model "
                    f"'{model.name}' is held by no attribute, list or dictionary."
                )
            self._keep_flags([replacement])
        specs = input_specs(model)
        new(tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), specs))
        for _, layer in leaves(model, parts=False):
            if chosen[id(layer)] is None:
                self._pairs.append((layer, twins[id(layer)]))
        return new

    def _keep_flags(self, chain: Chain) -> None:
        for layer in chain:
            self._flags += [(x, x.trainable) for x in descendants(layer)]

    def copy_state(self) -> None:
        # Parents first: setting a model's flag sets those of its layers.
        for old, new in reversed(self._models):
            if new.trainable != old.trainable:
                new.trainable = old.trainable
        for layer, trainable in self._flags:
            if layer.trainable != trainable:
                layer.trainable = trainable
        for old, new in self._pairs:
            _copy_flags(old, new)
            for a, b in zip(old.variables, new.variables, strict=True):
                b.assign(a)


def _taken(layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without empty arguments (such as a mask) that only the replaced layer takes."""
    known = inspect.signature(layer.call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return kwargs
    return {k: v for k, v in kwargs.items() if v is not None or k in known}


def _is_functional(model: keras.Model) -> bool:
    return getattr(model, "_inputs_struct", None) is not None


def _copy_layer(layer: Any) -> Any:
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModelError(
            f"Layer '{layer.name}' ({type(layer).__name__}) cannot be copied: its "
            f"configuration does not give it back ({reason}). Write it as a layer "
            "with get_config."
        ) from error


def _copy_flags(old: Any, new: Any) -> None:
    if new.trainable != old.trainable:
        new.trainable = old.trainable
    inner = zip(old._layers, new._layers, strict=True)
    for old_layer, new_layer in inner:
        _copy_flags(old_layer, new_layer)


def _twins(old: keras.Model, new: keras.Model) -> dict[int, keras.layers.Layer]:
    """Layers of a freshly made model by the id of those of the original."""
    # Without parts: the new layers are not built yet.
    both = (leaves(model, parts=False) for model in (old, new))
    pairs = list(itertools.zip_longest(*both))
    for one, other in pairs:
        if one is None or other is None:
            raise ValueError("the copy has another number of layers than the original")
        same = type(one.layer) is type(other.layer)
        if not same and not registry.is_own(one.layer):
            raise ValueError("the copy has other layers than the original")
    return {id(one.layer): other.layer for one, other in pairs}


def _set_attribute(owner: Any, old: keras.layers.Layer, new: Any) -> bool:
    """Puts `new` where `owner` (or a model or layer within it) holds `old`."""
    done = False
    for key, value in list(vars(owner).items()):
        if key.startswith("_"):
            continue
        if value is old:
            _track_instead(owner, old, new)
            setattr(owner, key, new)
            done = True
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if item is old:
                    _track_instead(owner, old, new)
                    value[index] = new
                    done = True
        elif isinstance(value, dict):
            for name, item in list(value.items()):
                if item is old:
                    _track_instead(owner, old, new)
                    value[name] = new
                    done = True
        if isinstance(value, keras.Model):
            done = _set_attribute(value, old, new) or done
    return done


def _track_instead(owner: Any, old: keras.layers.Layer, new: Any) -> None:
    # Keras tracks what is assigned to an attribute but never forgets what stood
    # there, and does not see assignments to items of a list.
    if owner._tracker.is_in_store("layers", old):
        owner._tracker.replace_tracked_value("layers", old, new)
