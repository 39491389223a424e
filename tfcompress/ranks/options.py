"""What a layer may become, and which of these choices are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfcompress.errors import RankError
from tfcompress.layers import kernel_shape_of, registry
from tfcompress.spec import Cost, LayerSpec

# Options of each type of a layer whose time is measured.
_MOST_TIMED = 8


class Option(NamedTuple):
    """One way to have a layer: a type at ranks, or None for as it is.

    Attributes:
        layer_type, ranks: None for the layer as it is.
        cost: what it costs.
        error: relative squared error of the layer's outputs.
        value: what the network is expected to lose.
        milliseconds: measured time, where time is limited.
    """

    layer_type: str | None
    ranks: tuple[int, ...] | None
    cost: Cost
    error: float
    value: float
    milliseconds: float = 0.0

    def costs(self, resources: Sequence[str]) -> np.ndarray:
        """What it takes of each limited resource."""
        return np.array([self._takes(name) for name in resources], np.float64)

    def _takes(self, resource: str) -> float:
        if resource == "latency":
            return self.milliseconds
        return getattr(self.cost, resource)


def undominated(options: list[Option], resources: tuple[str, ...]) -> list[Option]:
    """Options no other one beats in value and in every cost, by value."""
    # By what counts first: then no option is beaten by a later one.
    ordered = sorted(options, key=lambda o: (o.value, *o.costs(resources), *o.cost))
    kept: list[Option] = []
    costs = np.empty((0, len(resources)))
    for option in ordered:
        cost = option.costs(resources)
        if not np.any(np.all(costs <= cost, axis=1)):
            kept.append(option)
            costs = np.vstack([costs, cost])
    return kept


def thinned(options: list[Option]) -> list[Option]:
    """Few enough options to measure: of each type some, evenly spread over the MACs."""
    kept = [option for option in options if option.layer_type is None]
    for name in dict.fromkeys(o.layer_type for o in options if o.layer_type):
        group = sorted((o for o in options if o.layer_type == name), key=_macs)
        places = np.linspace(0, len(group) - 1, min(len(group), _MOST_TIMED))
        kept += [group[round(place)] for place in places]
    return kept


def types_with(
    spec: LayerSpec, names: Sequence[str], asked: int | tuple[int, ...] | None
) -> list[str]:
    """The types that have as many ranks as are given for a layer.

    Raises:
        RankError: none has.
    """
    if not isinstance(asked, (tuple, list)):
        return list(names)
    numbers = {name: registry.get(name).rank_count for name in names}
    fitting = [name for name, number in numbers.items() if number == len(asked)]
    if not fitting:
        known = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise RankError(
            f"Layer '{spec.name}' can have these numbers of ranks: {known}; one "
            f"integer stands for all of them. Received: ranks={asked}"
        )
    return fitting


def asked_for(
    cls: type, spec: LayerSpec, asked: int | tuple[int, ...]
) -> tuple[int, ...]:
    """The ranks given for a layer, for one of its types.

    Raises:
        RankError: none, or more than the layer has.
    """
    shape = kernel_shape_of(spec.layer)
    if isinstance(asked, int):
        # One number suits types with one rank and with two.
        largest = cls.max_ranks(shape)
        if asked < 1 or asked > max(largest):
            raise RankError(
                f"Layer '{spec.name}' can have ranks from 1 to {max(largest)}. "
                f"Received: {asked}"
            )
        return tuple(min(asked, most) for most in largest)
    try:
        return cls.check_ranks(shape, asked)
    except RankError as error:
        raise RankError(f"Layer '{spec.name}': {error}") from error


def _macs(option: Option) -> int:
    return option.cost.macs
