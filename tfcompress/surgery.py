"""The only code that rebuilds models. The caller's model is never changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import UnsupportedModelError
from tfcompress.layers import FactorizedLayer, registry
from tfcompress.trace import descendants, input_specs, leaves

Chain = list[keras.layers.Layer]


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
            `tfcompress.trace.leaves`). A subclassed model takes no chains.

    Returns:
        A new, uncompiled model with the same name, weights (other than of replaced
        layers) and `trainable` flags.

    Raises:
        KeyError: a path that names no layer.
        UnsupportedModelError: the model cannot be rebuilt.
    """
    known = leaves(model)
    paths = {id(layer): path for path, layer in known}
    unknown = set(replacements) - set(paths.values())
    if unknown:
        raise KeyError(f"No layer '{sorted(unknown)[0]}' in model '{model.name}'.")
    rebuild = _Rebuild({i: replacements.get(path) for i, path in paths.items()})
    new = rebuild.model(model)
    rebuild.copy_state()
    return new


def copy_model(model: keras.Model) -> keras.Model:
    """A copy with its own layers and weights; uncompiled."""
    return replace_layers(model, {})


def factorize(
    model: keras.Model, choices: Mapping[str, tuple[str, tuple[int, ...]]]
) -> keras.Model:
    """A copy of a model in which the chosen layers are factorized.

    Args:
        model: a built model; it is not changed.
        choices: for each layer path the layer type's name and its ranks. A layer that
            is of that type already is truncated in core form.

    Returns:
        A new, uncompiled model.

    Raises:
        KeyError: a path that names no layer.
        RankError: ranks out of range.
        ValueError: a layer type that cannot replace the layer.
    """
    by_path = dict(leaves(model))
    new = {}
    for path, (type_name, ranks) in choices.items():
        if path not in by_path:
            raise KeyError(f"No layer '{path}' in model '{model.name}'.")
        new[path] = _factorized(by_path[path], type_name, ranks)
    return replace_layers(model, new)


def _factorized(
    layer: keras.layers.Layer, type_name: str, ranks: tuple[int, ...]
) -> FactorizedLayer:
    cls = registry.get(type_name)
    if type(layer) is cls:
        return layer.truncate(ranks)
    return cls.from_layer(layer, ranks)


def expand(model: keras.Model) -> keras.Model:
    """A copy in which every factorized layer is a chain of stock Keras layers.

    For files that must load without tfcompress, and for tools that know only stock
    layers. Same outputs; kernel regularizers of factorized layers are left behind.

    Args:
        model: a built Sequential or Functional model.

    Raises:
        UnsupportedModelError: a subclassed model holds a factorized layer.
    """
    chains = {
        path: layer.expand()
        for path, layer in leaves(model)
        if isinstance(layer, FactorizedLayer)
    }
    return replace_layers(model, chains)


class _Rebuild:
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
            replacement = self._replacements.get(id(layer))
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
            outputs = layer(*args, **kwargs)
            for follower in chains.get(id(layer), [layer])[1:]:
                outputs = follower(outputs)
            return outputs

        return keras.models.clone_model(
            model, clone_function=clone, call_function=call, recursive=False
        )

    def _subclassed(self, model: keras.Model) -> keras.Model:
        chosen: dict[int, Any] = {}
        for _, layer in leaves(model):
            replacement = self._replacements.get(id(layer))
            if replacement is None and isinstance(layer, FactorizedLayer):
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
        for _, layer in leaves(model):
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
    pairs = list(itertools.zip_longest(leaves(old), leaves(new)))
    for one, other in pairs:
        if one is None or other is None:
            raise ValueError("the copy has another number of layers than the original")
        same = type(one.layer) is type(other.layer)
        if not same and not isinstance(one.layer, FactorizedLayer):
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


@keras.saving.register_keras_serializable(package="tfcompress.surgery")
class _Recalibrated(keras.layers.BatchNormalization):
    """Batch normalization that always uses, and averages, the batch's statistics."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True, mask=mask)


def recalibrate_batch_norm(
    model: keras.Model, batches: Iterable[Any], *, steps: int = 32
) -> keras.Model:
    """A copy whose batch-norm statistics are averages over the given batches.

    Factorization shifts the activations; stale statistics then cost more accuracy
    than the lost rank (EagleEye, Li et al. 2020, section 3.3). Only batch
    normalization sees batch statistics: dropout and the like stay in inference mode.

    Args:
        model: a built Sequential or Functional model; it is not changed.
        batches: inputs, or `(inputs, ...)` tuples, of shape `(batch, ...)`.
        steps: number of batches to use at most.

    Returns:
        A new model; a plain copy where it has no batch normalization.

    Raises:
        ValueError: no batches.
    """
    new = copy_model(model)
    norms = {
        path: layer
        for path, layer in leaves(new)
        if type(layer) is keras.layers.BatchNormalization
    }
    if not norms:
        return new
    stand_ins = {}
    for path, layer in norms.items():
        config = layer.get_config() | {"trainable": True}
        stand_in = _Recalibrated.from_config(config)
        stand_in.build(layer._build_shapes_dict["input_shape"])
        for old, fresh in zip(layer.variables, stand_in.variables, strict=True):
            fresh.assign(old)
        # A variable, so that one traced graph serves all batches.
        stand_in.momentum = tf.Variable(0.0, trainable=False, dtype="float32")
        stand_ins[path] = stand_in
    probe = replace_layers(new, stand_ins)
    forward: Callable[[Any], Any] = tf.function(
        lambda x: probe(x, training=False), reduce_retracing=True
    )
    count = 0
    for batch in itertools.islice(batches, steps):
        for stand_in in stand_ins.values():
            stand_in.momentum.assign(count / (count + 1))
        forward(batch[0] if isinstance(batch, tuple) else batch)
        count += 1
    if count == 0:
        raise ValueError("Batch norm recalibration needs at least one batch.")
    for path, layer in norms.items():
        layer.moving_mean.assign(stand_ins[path].moving_mean)
        layer.moving_variance.assign(stand_ins[path].moving_variance)
    return new
