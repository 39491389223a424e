"""What planning knows of a layer: names, shapes and cost, without building anything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Cost of a layer or a model for one sample.

    Attributes:
        params: number of weights, trainable or not.
        macs: multiply-accumulate operations of one forward pass of one sample.
        bytes: bytes of the weights as they are kept in memory.
    """

    params: int
    macs: int
    bytes: int

    def plus(self, other: Cost) -> Cost:
        """Sum of both costs, field by field."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


ZERO = Cost(0, 0, 0)


class Call(NamedTuple):
    """One call of a layer: shapes of its first input and output, without batch."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """A layer of a model as a rank selector sees it.

    Attributes:
        name: path of the layer, with "/" between nested models.
        kind: class name of the layer.
        calls: one entry for each call in one forward pass; a shared layer has several.
        cost: what the layer costs now.
        dense: what the layer it was or stands for costs; equals `cost` for a stock
            layer.
        options: names of the factorized layer types that can take its place.
        reason: why no type can, or None.
        layer: the Keras layer itself; selectors read its kernel, never change it.
    """

    name: str
    kind: str
    calls: tuple[Call, ...]
    cost: Cost
    dense: Cost
    options: tuple[str, ...]
    reason: str | None
    layer: Any = dataclasses.field(repr=False, compare=False)

    @property
    def itemsize(self) -> int:
        """Bytes of one weight."""
        return self.cost.bytes // self.cost.params if self.cost.params else 4


def positions(shape: tuple[int, ...]) -> int:
    """Number of places a Dense kernel is applied at: all axes but the last."""
    return math.prod(shape[:-1])
