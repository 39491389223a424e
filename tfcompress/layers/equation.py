"""Einsum equations read as dense maps from some axes to others."""

from __future__ import annotations

import re
import string
from typing import NamedTuple

_EQUATION = re.compile(
    r"(?P<left>\.\.\.)?(?P<inputs>[a-zA-Z]+)(?P<right>\.\.\.)?,(?P<kernel>[a-zA-Z]+)"
    r"->(?:\.\.\.)?(?P<outputs>[a-zA-Z]+)(?:\.\.\.)?"
)


class Projection(NamedTuple):
    """An einsum equation that is a dense map: every field a string of axis labels.

    Attributes:
        inputs, kernel, outputs: the terms, ellipses left out.
        contracted: kernel axes shared with the inputs, in the kernel's order.
        new: kernel axes of the outputs, in the order of the outputs.
        left, right: "..." where the equation has an ellipsis on that side.
    """

    inputs: str
    kernel: str
    outputs: str
    contracted: str
    new: str
    left: str
    right: str

    @property
    def rank_label(self) -> str:
        """A label that no axis has."""
        return next(x for x in string.ascii_letters if x not in self.inputs + self.new)

    @property
    def between(self) -> str:
        """Axes between the factors: the rank stands where the inputs were summed."""
        last = max(map(self.inputs.index, self.contracted))
        labels = [
            self.rank_label if place == last else label
            for place, label in enumerate(self.inputs)
            if place == last or label not in self.contracted
        ]
        return "".join(labels)

    def equations(self) -> tuple[str, str]:
        """Equations of both factors, `(*contracted, r)` and `(r, *new)`."""
        rank = self.rank_label
        inputs, between, outputs = (
            f"{self.left}{term}{self.right}"
            for term in (self.inputs, self.between, self.outputs)
        )
        return (
            f"{inputs},{self.contracted}{rank}->{between}",
            f"{between},{rank}{self.new}->{outputs}",
        )


def projection(equation: str) -> Projection:
    """Reads an equation of EinsumDense.

    Raises:
        ValueError: the equation is no dense map from some axes to others; the message
            is the reason.

    Example:
        >>> projection("abc,cde->abde").equations()
        ('abc,cf->abf', 'abf,fde->abde')
    """
    match = _EQUATION.fullmatch(equation)
    if match is None:
        raise ValueError(f"the equation '{equation}' is not of a known form")
    inputs, kernel, outputs = match["inputs"], match["kernel"], match["outputs"]
    batched = [x for x in kernel if x in inputs and x in outputs]
    if batched:
        raise ValueError(
            f"the kernel of '{equation}' holds one matrix for each '{batched[0]}'"
        )
    summed = [x for x in inputs if x not in kernel and x not in outputs]
    repeated = any(len(set(term)) < len(term) for term in (inputs, kernel, outputs))
    contracted = "".join(x for x in kernel if x in inputs)
    new = "".join(x for x in outputs if x in kernel)
    if summed or repeated or not contracted or not new:
        raise ValueError(f"'{equation}' is no dense map from some axes to others")
    return Projection(
        inputs,
        kernel,
        outputs,
        contracted,
        new,
        match["left"] or "",
        match["right"] or "",
    )
