"""FactorizedEinsumDense: an EinsumDense kernel as a product of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.equation import Projection, projection
from tfcompress.layers.pair import MatrixPair
from tfcompress.layers.registry import register
from tfcompress.layers.sampling import Sample, sampled
from tfcompress.layers.support import SHARED_CONFIG, stock_layer, to_numpy
from tfcompress.spec import LayerSpec


@register
class FactorizedEinsumDense(MatrixPair, FactorizedLayer):
    """EinsumDense of rank `r`: the contracted axes to `r` numbers, these to the new.

    The kernel is seen as a matrix from the axes it shares with the inputs to those it
    gives to the outputs, and cut as that of `FactorizedDense`. Projections of
    attention are such layers.

    Args:
        equation, output_shape, bias_axes: as in `keras.layers.EinsumDense`. Every axis
            of the kernel must be one of the inputs or one of the outputs, none both.
        ranks: the rank `r`, at most the product of either kind of axes.
        **kwargs: as in `FactorizedLayer`, without `use_bias`.

    Input and output shape: as of the layer it stands for.

    Example:
        >>> query = keras.layers.EinsumDense("abc,cde->abde", (None, 4, 16))
        >>> query.build((None, 10, 64))
        >>> FactorizedEinsumDense.from_layer(query, 8).count_params()
        1024
    """

    targets = (keras.layers.EinsumDense,)

    def __init__(
        self,
        equation: str,
        output_shape: int | Sequence[int | None],
        ranks: int,
        *,
        bias_axes: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ranks, use_bias=bias_axes is not None, **kwargs)
        self.equation = equation
        # Not `output_shape`: Keras keeps that name for itself.
        sizes = (output_shape,) if isinstance(output_shape, int) else output_shape
        self.partial_output_shape = tuple(sizes)
        self.bias_axes = bias_axes
        self._projection = projection(equation)

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        shared = (key for key in SHARED_CONFIG if key != "use_bias")
        return (*shared, "equation", "output_shape", "bias_axes")

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        try:
            projection(layer.equation)
        except ValueError as error:
            return str(error)
        return super().supports(layer)

    @classmethod
    def stock_kernel(cls, layer: keras.layers.Layer) -> np.ndarray:
        """The kernel as a matrix: contracted axes in its own order, new ones behind."""
        axes = projection(layer.equation)
        order = [axes.kernel.index(label) for label in axes.contracted + axes.new]
        shape = cls.stock_kernel_shape(layer)
        return to_numpy(layer.kernel).transpose(order).reshape(shape)

    @classmethod
    def stock_kernel_shape(cls, layer: keras.layers.Layer) -> tuple[int, ...]:
        axes = projection(layer.equation)
        sizes = dict(zip(axes.kernel, layer.kernel.shape, strict=True))
        return _matrix_shape(axes, sizes)

    @classmethod
    def takes_mean(cls, layer: Any) -> bool:
        new = projection(layer.equation).new
        return layer.bias_axes is not None and set(new) <= set(layer.bias_axes)

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        inputs, outputs = kernel_shape
        each = ranks[0] * (inputs + outputs)
        return sum(math.prod(c.input_shape) // inputs * each for c in spec.calls)

    @classmethod
    def input_rows(
        cls, layer: Any, inputs: Any, *, whole: bool, sample: Sample | None = None
    ) -> Any:
        axes = projection(layer.equation)
        hidden = len(inputs.shape) - len(axes.inputs) if axes.left else 0
        last = [hidden + axes.inputs.index(label) for label in axes.contracted]
        first = [axis for axis in range(len(inputs.shape)) if axis not in last]
        inputs = ops.transpose(inputs, first + last)
        size = math.prod(inputs.shape[len(first) :])
        return sampled(ops.reshape(inputs, (-1, size)), sample)

    def kernel(self) -> np.ndarray:
        return self._as_stock(super().kernel(), np)

    def product(self) -> Any:
        return self._as_stock(super().product(), ops)

    def _as_stock(self, matrix: Any, arrays: Any) -> Any:
        """The kernel's matrix in the layout of EinsumDense."""
        axes = self._projection
        given = axes.contracted + axes.new
        tensor = arrays.reshape(matrix, [self._sizes[label] for label in given])
        return arrays.transpose(tensor, [given.index(label) for label in axes.kernel])

    def build_shape(self, source: keras.layers.Layer) -> tuple[int | None, ...]:
        # A kernel does not tell how many axes an ellipsis stands for.
        return tuple(source.get_build_config()["input_shape"])

    def build(self, input_shape: tuple) -> None:
        axes = self._projection
        hidden = len(input_shape) - len(axes.inputs)
        # The batch is in the ellipsis, if that comes first.
        outputs = axes.outputs if axes.left else axes.outputs[1:]
        sizes = dict(zip(outputs, self.partial_output_shape, strict=False))
        first = hidden if axes.left else 0
        places = {label: first + place for place, label in enumerate(axes.inputs)}
        sizes |= {label: input_shape[places[label]] for label in axes.contracted}
        self._sizes = sizes
        self._bias_labels = ""
        if self.use_bias:
            start = min(map(axes.outputs.index, self.bias_axes))
            # Keras gives a bias the axes under an ellipsis behind, of size one.
            behind = "." * (hidden if axes.right else 0)
            self._bias_labels = axes.outputs[start:] + behind
        self.add_factors(_matrix_shape(axes, sizes))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape),
            axes={places[label]: sizes[label] for label in axes.contracted},
        )

    def _bias_sizes(self, labels: str) -> tuple[int, ...]:
        return tuple(self._sizes[x] if x in labels else 1 for x in self._bias_labels)

    def bias_shape(self, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._bias_sizes(self.bias_axes)

    def as_bias(self, change: np.ndarray) -> np.ndarray:
        return change.reshape(self._bias_sizes(self._projection.new))

    def call(self, inputs: Any) -> Any:
        axes = self._projection
        first, second = axes.equations()
        u = ops.reshape(self.u, (*(self._sizes[x] for x in axes.contracted), -1))
        v = ops.reshape(self.v, (-1, *(self._sizes[x] for x in axes.new)))
        x = ops.einsum(second, ops.einsum(first, inputs, u), v)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    def expand(self) -> list[keras.layers.Layer]:
        axes, config, factors = self._projection, self.get_config(), self.factors()
        first, second = axes.equations()
        between = axes.between if axes.left else axes.between[1:]
        sizes = {**self._sizes, axes.rank_label: self.ranks[0]}
        shape = self.get_build_config()["input_shape"]
        inner = stock_layer(
            keras.layers.EinsumDense,
            [factors["u"].reshape([*(self._sizes[x] for x in axes.contracted), -1])],
            shape,
            equation=first,
            output_shape=[sizes.get(label) for label in between],
            name=f"{self.name}_u",
            dtype=config["dtype"],
            trainable=self.trainable,
        )
        kernel = factors["v"].reshape([-1, *(self._sizes[x] for x in axes.new)])
        outer = self._stock(
            kernel, inner.compute_output_shape(shape), second, f"{self.name}_v"
        )
        return [inner, outer]

    def merged(self) -> keras.layers.Layer:
        """The same function as one EinsumDense with a dense kernel.

        For places that hold one stock layer and no chain, such as those of attention.
        """
        shape = self.get_build_config()["input_shape"]
        return self._stock(self.kernel(), shape, self.equation, self.name)

    def _stock(
        self, kernel: np.ndarray, input_shape: tuple, equation: str, name: str
    ) -> keras.layers.Layer:
        """An EinsumDense with this layer's bias and activation."""
        config = self.get_config()
        dropped = ("kernel_regularizer", "equation", "name")
        kept = [key for key in self.config_keys() if key not in dropped]
        return stock_layer(
            keras.layers.EinsumDense,
            [kernel, *([to_numpy(self.bias)] if self.use_bias else [])],
            tuple(input_shape),
            equation=equation,
            name=name,
            **{key: config[key] for key in kept},
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "equation": self.equation,
            "output_shape": self.partial_output_shape,
            "bias_axes": self.bias_axes,
        }


def _matrix_shape(axes: Projection, sizes: dict[str, Any]) -> tuple[int, ...]:
    return tuple(
        math.prod(sizes[label] for label in labels)
        for labels in (axes.contracted, axes.new)
    )
