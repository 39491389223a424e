"""What all factorized layers share: configuration, variables, making and cutting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import activations, constraints, initializers, ops, regularizers

from tfcompress.errors import RankError
from tfcompress.layers.interface import Factors, LayerType, kernel_shape_of
from tfcompress.layers.support import (
    SHARED_CONFIG,
    as_ranks,
    kernel_option,
    to_numpy,
)
from tfcompress.linalg import Moments


class _OnProduct(regularizers.Regularizer):
    """A regularizer of the product of a layer's factors, attached to one of them.

    As a variable's regularizer it is counted once, however often the layer is called,
    in full precision, and only while the layer is trainable: as that of a kernel.
    """

    def __init__(self, layer: FactorizedLayer) -> None:
        self.layer = layer

    def __call__(self, factor: Any) -> Any:
        return self.layer.kernel_regularizer(self.layer.product())


class FactorizedLayer(LayerType, keras.layers.Layer):
    """Base class of layers that hold a kernel as a product of smaller factors.

    A subclass fills in `LayerType`, `product`, `call` and `expand`; configuration,
    saving, making from a layer and cutting are here.

    The kernel regularizer of the replaced layer acts on the product of the factors
    (Khodak et al. 2021, "Initialization and regularization of factorized neural
    layers", section 3): at full rank the loss is the one of the dense layer.

    Args:
        ranks: integer or tuple of integers.
        activation, use_bias, bias_initializer: as in `keras.layers.Dense`.
        kernel_regularizer: of the product of the factors.
        bias_regularizer, activity_regularizer, bias_constraint: as in
            `keras.layers.Dense`.
        **kwargs: as in `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        RankError: ranks that are no positive integers, or not as many as the type has.

    Example:
        >>> dense = keras.layers.Dense(10)
        >>> dense.build((None, 64))
        >>> layer = FactorizedDense.from_layer(dense, 4)
        >>> isinstance(layer, FactorizedLayer), layer.truncate(2).ranks
        (True, (2,))
    """

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

    @classmethod
    def from_layer(
        cls,
        layer: keras.layers.Layer,
        ranks: int | Sequence[int],
        statistics: Moments | None = None,
    ) -> Self:
        """A built factorized layer that approximates `layer`.

        Args:
            layer: a built stock layer that `supports` accepts; it is not changed.
            ranks: integer or tuple; at `max_ranks` the function is reproduced.
            statistics: moments of the layer's inputs, from
                `tfcompress.statistics.collect_moments`: the factors then lose least
                of the layer's outputs, and its bias, where it has one, takes up the
                change of their mean. None: they lose least of the kernel.

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
        new = cls.like(layer, ranks)
        kernel = cls.stock_kernel(layer)
        matrix = cls.as_matrix(kernel)
        metric = cls.metric(layer, statistics)
        wanted = kernel
        if metric is not None:
            wanted = metric.target(matrix).reshape(kernel.shape)
        factors = cls.decompose(wanted, new.ranks, metric)
        change = None
        if metric is not None and cls.takes_mean(layer):
            mean = statistics.patch_mean(len(matrix))
            change = statistics.mean_response(matrix)
            change = change - cls.mean_response(factors, mean)
        new._fill(layer, factors, change)
        return new

    @classmethod
    def like(cls, layer: keras.layers.Layer, ranks: int | Sequence[int]) -> Self:
        """A built layer in the place of a stock layer; its weights are yet to be set.

        Raises:
            RankError: a rank is out of range.
        """
        ranks = cls.check_ranks(kernel_shape_of(layer), ranks)
        config = layer.get_config()
        # Keras' Dense has an activity regularizer but leaves it out of its config.
        config["activity_regularizer"] = layer.activity_regularizer
        regularizer = kernel_option(cls.kernel_name, "regularizer")
        config["kernel_regularizer"] = config[regularizer]
        new = cls(ranks=ranks, **{key: config[key] for key in cls.config_keys()})
        new.build(new.build_shape(layer))
        return new

    def _fill(
        self, source: keras.layers.Layer, factors: Factors, change: np.ndarray | None
    ) -> None:
        """Sets all weights: the factors given, the others from `source`.

        `change` is what the bias must make up for: `(out,)`, or None.
        """
        self.assign_factors(factors)
        for name in self.kept_names:
            getattr(self, name).assign(getattr(source, name))
        if self.bias is not None:
            bias = to_numpy(source.bias)
            if change is not None:
                bias = bias + self.as_bias(change)
            self.bias.assign(bias)

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        """Arguments, all but the ranks; taken over from the replaced layer's config."""
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

    def truncate(
        self, ranks: int | Sequence[int], statistics: Moments | None = None
    ) -> Self:
        """A new layer at lower ranks; equal to truncating the full product.

        Args:
            ranks: integer or tuple, at most the current ranks.
            statistics: see `from_layer`. In the asymmetric mode inputs beyond those
                that the first factor lets through are not asked.

        Raises:
            RankError: a rank is above the current one.
        """
        ranks = as_ranks(ranks, self.rank_count)
        if any(r > now for r, now in zip(ranks, self.ranks, strict=True)):
            raise RankError(
                f"{self.name}: ranks can only fall from {self.ranks}. "
                f"Received: ranks={ranks}"
            )
        new = type(self).from_config(self.get_config() | {"ranks": ranks})
        new.build(new.build_shape(self))
        old, metric = self.factors(), self.metric(self, statistics)
        factors = self.truncate_factors(old, ranks, metric)
        change = None
        if metric is not None and self.takes_mean(self):
            rows = math.prod(self.kernel_shape()[:-1])
            right = self.mean_response(old, statistics.patch_mean(rows, target=True))
            now = self.mean_response(factors, statistics.patch_mean(rows))
            change = right - now
        new._fill(self, factors, change)
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
                shape=self.bias_shape(kernel_shape),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = keras.layers.InputSpec(
            min_ndim=2, axes={self.channel_axis(): kernel_shape[-2]}
        )

    def bias_shape(self, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the bias variable."""
        return (kernel_shape[-1],)

    def as_bias(self, change: np.ndarray) -> np.ndarray:
        """A change of the outputs `(out,)` in the layout of the bias."""
        return change

    def build_shape(self, source: keras.layers.Layer) -> tuple[int | None, ...]:
        """The input shape to build with, as far as weights tell it: the channels.

        Args:
            source: a built stock layer, or a layer of this type.
        """
        kernel_shape = kernel_shape_of(source)
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
        shared = {
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": serialize(self.kernel_regularizer),
            "bias_regularizer": serialize(self.bias_regularizer),
            "activity_regularizer": serialize(self.activity_regularizer),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }
        taken = {key: shared[key] for key in shared if key in self.config_keys()}
        return {**super().get_config(), "ranks": self.ranks, **taken}
