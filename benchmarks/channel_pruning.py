"""Structured channel pruning of Keras models by the method of Torch-Pruning.

Channels that only fall together form a group (Fang et al. 2023, "DepGraph: Towards any
structural pruning", section 3): a residual sum ties its branches, batch normalization
follows its convolution, and whoever reads a channel loses it as well. Every group loses
the same share of its channels, those with the smallest L2 norm over all weights that
bear them, as Torch-Pruning's magnitude pruner does with local ranking. What is left is
a smaller network of stock layers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from tfcompress.cost import model_cost
from tfcompress.errors import UnsupportedModelError
from tfcompress.ranks import Budget

_HALVINGS = 12

_READERS = (keras.layers.Conv2D, keras.layers.Dense)
_CARRIERS = (
    keras.layers.Activation,
    keras.layers.AveragePooling2D,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
)


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer whose weights bear the channels of a group.

    Attributes:
        layer: its name.
        role: "out" (it makes the channels), "in" (it reads them) or "norm".
        repeats: how often each channel occurs in what it reads; more than once
            after a flattening.
    """

    layer: str
    role: str
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    Attributes:
        size: their number.
        sites: the layers that bear them.
        fixed: whether they are inputs or outputs of the model, and must stay.
    """

    size: int
    sites: tuple[Site, ...]
    fixed: bool


class _Wires:
    """Which tensors carry the channels of which group, as a union of sets."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._parents: list[int] = []
        self._of: dict[int, tuple[int, int]] = {}
        self.sites: list[tuple[int, Site]] = []
        self.fixed: list[int] = []

    def root(self, wire: int) -> int:
        while self._parents[wire] != wire:
            wire = self._parents[wire]
        return wire

    def open(self, tensor: Any, size: int) -> int:
        """A new group, carried by `tensor`."""
        self._parents.append(len(self._parents))
        self.sizes.append(size)
        self._of[id(tensor)] = (self._parents[-1], 1)
        return self._parents[-1]

    def carry(self, source: Any, target: Any, times: int = 1) -> None:
        """`target` carries the channels of `source`, each `times` as often."""
        wire, repeats = self.of(source)
        self._of[id(target)] = (wire, repeats * times)

    def tie(self, tensors: list[Any]) -> None:
        """The channels of all these are one group."""
        first = self.root(self.of(tensors[0])[0])
        for tensor in tensors[1:]:
            self._parents[self.root(self.of(tensor)[0])] = first

    def of(self, tensor: Any) -> tuple[int, int]:
        """The wire that a tensor carries, and how often it repeats each channel."""
        if id(tensor) not in self._of:
            # A layer's `output` is that of its first call.
            raise UnsupportedModelError(
                "Channels cannot be followed through a layer that is called more than "
                f"once. Received: a tensor of shape {tensor.shape} that no layer's "
                "first call gives"
            )
        return self._of[id(tensor)]


def channel_groups(model: keras.Model) -> list[Group]:
    """The groups of coupled channels of a model.

    Args:
        model: a Functional model with channels last.

    Raises:
        UnsupportedModelError: a layer of another type, or a shared one.
    """
    wires = _Wires()
    for layer in model.layers:
        _connect(layer, wires)
    wires.fixed += [wires.of(tensor)[0] for tensor in model.outputs]
    groups: dict[int, list[Site]] = {}
    for wire, site in wires.sites:
        groups.setdefault(wires.root(wire), []).append(site)
    fixed = {wires.root(wire) for wire in wires.fixed}
    return [
        Group(wires.sizes[root], tuple(sites), root in fixed)
        for root, sites in groups.items()
    ]


def _connect(layer: keras.layers.Layer, wires: _Wires) -> None:
    """Records what a layer does to the channels that it is given."""
    inputs, output = layer.input, layer.output
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnsupportedModelError(
            "Channels are pruned where they are the last axis. Received: layer "
            f"'{layer.name}' with data_format={layer.data_format!r}"
        )
    if isinstance(layer, keras.layers.InputLayer):
        wires.fixed.append(wires.open(output, output.shape[-1]))
    elif type(layer) in _READERS and getattr(layer, "groups", 1) == 1:
        wire, repeats = wires.of(inputs)
        wires.sites.append((wire, Site(layer.name, "in", repeats)))
        made = wires.open(output, output.shape[-1])
        wires.sites.append((made, Site(layer.name, "out")))
    elif type(layer) is keras.layers.BatchNormalization:
        wires.sites.append((wires.of(inputs)[0], Site(layer.name, "norm")))
        wires.carry(inputs, output)
    elif type(layer) is keras.layers.Add:
        wires.tie(inputs)
        wires.carry(inputs[0], output)
    elif type(layer) is keras.layers.Flatten:
        wires.carry(inputs, output, math.prod(inputs.shape[1:-1]))
    elif type(layer) in _CARRIERS:
        wires.carry(inputs, output)
    else:
        raise UnsupportedModelError(
            f"Channels cannot be followed through layer '{layer.name}'. Received: "
            f"{type(layer).__name__}, groups={getattr(layer, 'groups', 1)}"
        )


def group_norms(model: keras.Model, group: Group) -> np.ndarray:
    """Importance of each channel: mean over the layers of the squared L2 norm.

    Of a convolution or a dense layer the kernel counts, of batch normalization the
    scale, of none the bias: the defaults of Torch-Pruning's group magnitude.

    Returns:
        Array of shape `(group.size,)`.
    """
    norms = []
    for site in group.sites:
        layer = model.get_layer(site.layer)
        if site.role == "norm":
            if layer.gamma is not None:
                norms.append(np.square(np.asarray(layer.gamma)))
            continue
        kernel = np.square(np.asarray(layer.kernel, np.float64))
        axis = kernel.ndim - (1 if site.role == "out" else 2)
        sums = kernel.sum(axis=tuple(a for a in range(kernel.ndim) if a != axis))
        norms.append(sums.reshape(site.repeats, group.size).sum(axis=0))
    return np.mean(norms, axis=0)


def kept_count(size: int, ratio: float, round_to: int) -> int:
    """Channels left of `size`: the nearest multiple, but no fewer than one step.

    Torch-Pruning rounds down. Where widths are powers of two, all groups then lose a
    whole step at one ratio, and the network falls far below a budget.
    """
    if ratio <= 0.0:
        return size
    steps = math.floor(size * (1.0 - ratio) / round_to + 0.5)
    return min(max(steps, 1) * round_to, size)


def prune_channels(
    model: keras.Model, ratio: float, *, round_to: int = 4
) -> keras.Model:
    """A smaller model: every group without its least important channels.

    Args:
        model: a Functional model, see `channel_groups`; it is not changed.
        ratio: share of the channels to remove, in [0, 1).
        round_to: channels left are multiples of this.

    Returns:
        A new model of the same layers with fewer channels and the weights left.

    Raises:
        ValueError: a ratio out of range.
        UnsupportedModelError: see `channel_groups`.
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"ratio must lie in [0, 1). Received: ratio={ratio}")
    kept: dict[tuple[str, str], np.ndarray] = {}
    for group in channel_groups(model):
        channels = np.arange(group.size)
        if not group.fixed:
            count = kept_count(group.size, ratio, round_to)
            norms = group_norms(model, group)
            channels = np.sort(np.argsort(-norms, kind="stable")[:count])
        for site in group.sites:
            # Channels are the last axis of what was flattened, so each place of the
            # image holds all of them.
            places = group.size * np.arange(site.repeats)[:, None]
            kept[site.layer, site.role] = (places + channels).ravel()
    return _smaller(model, kept)


def _smaller(
    model: keras.Model, kept: dict[tuple[str, str], np.ndarray]
) -> keras.Model:
    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        for name in ("filters", "units"):
            if name in config:
                config[name] = len(kept[layer.name, "out"])
        return type(layer).from_config(config)

    new = keras.models.clone_model(model, clone_function=clone)
    for layer in new.layers:
        old = model.get_layer(layer.name)
        if (layer.name, "norm") in kept:
            index = kept[layer.name, "norm"]
            layer.set_weights([weight[index] for weight in old.get_weights()])
        elif (layer.name, "out") in kept:
            read, made = (kept[layer.name, role] for role in ("in", "out"))
            kernel, *bias = old.get_weights()
            weights = [kernel[..., read, :][..., made], *(b[made] for b in bias)]
            layer.set_weights(weights)
    return new


def prune_to_budget(
    model: keras.Model, budget: Budget, *, round_to: int = 4
) -> tuple[keras.Model, float]:
    """The model of the smallest pruning ratio that meets a budget, by bisection.

    Args:
        model: see `prune_channels`.
        budget: of the costs relative to `model`.
        round_to: see `prune_channels`.

    Returns:
        The pruned model and its ratio.

    Raises:
        ValueError: no ratio meets the budget.
    """
    dense = model_cost(model)

    def at(ratio: float) -> keras.Model | None:
        pruned = prune_channels(model, ratio, round_to=round_to)
        return pruned if budget.met(model_cost(pruned), dense) else None

    low, high = 0.0, 1.0 - 2.0**-_HALVINGS
    best = at(high)
    if best is None:
        raise ValueError(
            f"Model '{model.name}' misses the budget even with {round_to} channels a "
            f"layer. Received: {budget.describe()}"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        pruned = at(middle)
        if pruned is None:
            low = middle
        else:
            best, high = pruned, middle
    return best, high
