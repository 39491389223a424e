"""What all factorized layers share: configuration, saving, and the interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import activations, constraints, initializers, ops, regularizers

from tfcompress.errors import RankError
from tfcompress.layers.support import (
    SHARED_CONFIG,
    as_ranks,
    to_numpy,
    unsupported_reason,
)
from tfcompress.spec import Cost, LayerSpec

Factors = dict[str, np.ndarray]


class _OnProduct(regularizers.Regularizer):
    """A regularizer of the product of a layer's factors, attached to one of them.

    As a variable's regularizer it is counted once, however often the layer is called,
    in full precision, and only while the layer is trainable: as that of a kernel.
    """

    def __init__(self, layer: FactorizedLayer) -> None:
        self.layer = layer

    def __call__(self, factor: Any) -> Any:
        return self.layer.kernel_regularizer(self.layer.product())


class FactorizedLayer(keras.layers.Layer):
    """Base class of layers that hold a kernel as a product of smaller factors.

    A subclass says which stock layers it can stand for (`targets`, `supports`), what
    it costs (`max_ranks`, `factor_sizes`, `macs`: plain arithmetic on shapes), and
    how its factors come from a kernel and give it back (`decompose`, `compose`,
    `truncate_factors`). Everything else is here.

    The kernel regularizer of the replaced layer acts on the product of the factors
    (Khodak et al. 2021, "Initialization and regularization of factorized neural
    layers", section 3): at full rank the loss is the one of the dense layer.

    Args:
        ranks: integer or tuple of integers.
        activation, use_bias, bias_initializer, kernel_regularizer,
        bias_regularizer, activity_regularizer, bias_constraint: as in
            `keras.layers.Dense`.
    """

    targets: ClassVar[tuple[type, ...]] = ()
    rank_count: ClassVar[int] = 1
    factor_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        ranks: int | Sequence[int],
        *,
        activation: Any = None,
        use_bias: bool = True,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.ranks = as_ranks(ranks, self.rank_count)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias_constraint = constraints.get(bias_constraint)

    # ---- what a subclass gives -------------------------------------------------

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        """None if this type can replace the built layer, else the reason."""
        return unsupported_reason(layer)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Largest useful ranks for a kernel: at these the product is exact."""
        raise NotImplementedError

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the factors for a kernel of that shape."""
        raise NotImplementedError

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        """Multiply-accumulates of one sample over all calls of the layer."""
        raise NotImplementedError

    @classmethod
    def decompose(cls, kernel: np.ndarray, ranks: tuple[int, ...]) -> Factors:
        """Factors of the best approximation of a dense kernel."""
        raise NotImplementedError

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        """The dense kernel that factors stand for."""
        raise NotImplementedError

    @classmethod
    def truncate_factors(cls, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        """Factors at lower ranks, found in core form: the dense kernel is not built."""
        raise NotImplementedError

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        """Singular values of the unfolding that each rank cuts."""
        raise NotImplementedError

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        """Shapes of the matrices that `spectra` belongs to."""
        raise NotImplementedError

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        """As `spectra`, of the product of this layer's factors, in core form."""
        raise NotImplementedError

    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel this built layer stands for."""
        raise NotImplementedError

    def expand(self) -> list[keras.layers.Layer]:
        """The same function as a chain of built stock Keras layers.

        A kernel regularizer acts on the product of the factors and has no stock
        counterpart: the chain carries none.
        """
        raise NotImplementedError

    # ---- what they all have ----------------------------------------------------

    @classmethod
    def cost(cls, spec: LayerSpec, ranks: int | Sequence[int]) -> Cost:
        """Predicted cost at `ranks`, from shapes alone.

        Args:
            spec: the layer to be replaced.
            ranks: integer or tuple, at most `max_ranks`.

        Returns:
            `Cost(params, macs, bytes)`; equals what the built layer has.
        """
        shape = kernel_shape_of(spec.layer)
        ranks = cls.check_ranks(shape, ranks)
        sizes = cls.factor_shapes(shape, ranks).values()
        params = sum(math.prod(size) for size in sizes)
        params += shape[-1] if spec.layer.use_bias else 0
        return Cost(params, cls.macs(spec, shape, ranks), params * spec.itemsize)

    @classmethod
    def check_ranks(
        cls, kernel_shape: tuple[int, ...], ranks: int | Sequence[int]
    ) -> tuple[int, ...]:
        """`ranks` as a tuple.

        Raises:
            RankError: a rank is not in `[1, max_ranks]`.
        """
        ranks = as_ranks(ranks, cls.rank_count)
        largest = cls.max_ranks(kernel_shape)
        if any(r > limit for r, limit in zip(ranks, largest, strict=True)):
            raise RankError(
                f"{cls.__name__}: ranks must be at most {largest} for a kernel of "
                f"shape {kernel_shape}. Received: ranks={ranks}"
            )
        return ranks

    @classmethod
    def from_layer(cls, layer: keras.layers.Layer, ranks: int | Sequence[int]) -> Self:
        """A built factorized layer that approximates `layer`.

        Args:
            layer: a built stock layer that `supports` accepts; it is not changed.
            ranks: integer or tuple; at `max_ranks` the function is reproduced.

        Returns:
            A new layer with the name, data type policy, activation, bias,
            regularizers and `trainable` of `layer`.

        Raises:
            ValueError: the layer is not supported.
            RankError: a rank is out of range.
        """
        reason = (
            cls.supports(layer)
            if type(layer) in cls.targets
            else f"it is no {', '.join(t.__name__ for t in cls.targets)}"
        )
        if reason is not None:
            raise ValueError(
                f"{cls.__name__} cannot replace layer '{layer.name}': {reason}."
            )
        kernel = to_numpy(layer.kernel)
        ranks = cls.check_ranks(kernel.shape, ranks)
        config = layer.get_config()
        # Keras' Dense has an activity regularizer but leaves it out of its config.
        config["activity_regularizer"] = layer.activity_regularizer
        new = cls(ranks=ranks, **{key: config[key] for key in cls.config_keys()})
        new.build(new.build_shape(kernel.shape))
        new.assign_factors(cls.decompose(kernel, ranks))
        if new.use_bias:
            new.bias.assign(layer.bias)
        return new

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        """Arguments taken over from the configuration of the replaced layer."""
        return SHARED_CONFIG

    def factors(self) -> Factors:
        """The factors as NumPy arrays, by name."""
        return {name: to_numpy(getattr(self, name)) for name in self.factor_names}

    def assign_factors(self, factors: Factors) -> None:
        """Sets the factors of a built layer."""
        for name in self.factor_names:
            getattr(self, name).assign(factors[name])

    def kernel(self) -> np.ndarray:
        """The dense kernel this layer stands for, in the layout of the stock layer."""
        return self.compose(self.factors())

    def product(self) -> Any:
        """`kernel()` as a tensor, differentiable in the factors."""
        raise NotImplementedError

    def truncate(self, ranks: int | Sequence[int]) -> Self:
        """A new layer at lower ranks; equal to truncating the full product.

        Args:
            ranks: integer or tuple, at most the current ranks.

        Raises:
            RankError: a rank is above the current one.
        """
        ranks = as_ranks(ranks, self.rank_count)
        if any(r > now for r, now in zip(ranks, self.ranks, strict=True)):
            raise RankError(
                f"{self.name}: ranks can only fall from {self.ranks}. "
                f"Received: ranks={ranks}"
            )
        config = self.get_config() | {"ranks": ranks}
        new = type(self).from_config(config)
        new.build(new.build_shape(self.kernel_shape()))
        new.assign_factors(self.truncate_factors(self.factors(), ranks))
        if self.use_bias:
            new.bias.assign(self.bias)
        return new

    def add_factors(self, kernel_shape: tuple[int, ...]) -> None:
        """Creates the factor and bias variables; for `build` of a subclass."""
        self.check_ranks(kernel_shape, self.ranks)
        shapes = self.factor_shapes(kernel_shape, self.ranks)
        for name, shape in shapes.items():
            weight = self.add_weight(
                name=name, shape=shape, initializer="glorot_uniform"
            )
            setattr(self, name, weight)
        if self.kernel_regularizer is not None:
            getattr(self, self.factor_names[0]).regularizer = _OnProduct(self)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(kernel_shape[-1],),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = keras.layers.InputSpec(
            min_ndim=2, axes={self.channel_axis(): kernel_shape[-2]}
        )

    def build_shape(self, kernel_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """The input shape to build with, as far as a kernel tells it: the channels."""
        shape: list[int | None] = [None] * len(kernel_shape)
        shape[self.channel_axis()] = kernel_shape[-2]
        return tuple(shape)

    def channel_axis(self) -> int:
        """Axis of the input channels."""
        return -1

    def finish(self, outputs: Any) -> Any:
        """Bias and activation; for `call` of a subclass."""
        if self.bias is not None:
            if self.channel_axis() == -1:
                outputs = ops.add(outputs, self.bias)
            else:
                shape = (1, -1) + (1,) * (len(outputs.shape) - 2)
                outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        if self.activation is not None:
            outputs = self.activation(outputs)
        return outputs

    def get_config(self) -> dict[str, Any]:
        serialize = regularizers.serialize
        return {
            **super().get_config(),
            "ranks": self.ranks,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": serialize(self.kernel_regularizer),
            "bias_regularizer": serialize(self.bias_regularizer),
            "activity_regularizer": serialize(self.activity_regularizer),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }


def kernel_shape_of(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Kernel shape of a stock layer or of the layer a factorized one stands for."""
    if isinstance(layer, FactorizedLayer):
        return layer.kernel_shape()
    return tuple(layer.kernel.shape)
