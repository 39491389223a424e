"""ChannelSVDConv1D, 2D, 3D: a convolution to r channels, then a 1×1 convolution."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.conv import FactorizedConv, pointwise, spatial
from tfcompress.layers.interface import Factors
from tfcompress.layers.pair import PairType
from tfcompress.layers.registry import register
from tfcompress.spec import LayerSpec


class ChannelSVDConv(PairType, FactorizedConv):
    """Base of `ChannelSVDConv2D` and its kin."""

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        return {
            "u": (*kernel_shape[:-1], ranks[0]),
            "v": (1,) * cls.dims + (ranks[0], kernel_shape[-1]),
        }

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        each = ranks[0] * (math.prod(kernel_shape[:-1]) + kernel_shape[-1])
        return sum(math.prod(spatial(c, spec.layer)[1]) * each for c in spec.calls)

    @classmethod
    def fold(cls, u: np.ndarray, v: np.ndarray, shape: tuple[int, ...]) -> Factors:
        return {"u": u.reshape(*shape[:-1], -1), "v": pointwise(v, cls.dims)}

    @classmethod
    def unfold(cls, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        u, v = factors["u"], factors["v"]
        return u.reshape(-1, u.shape[-1]), v.reshape(v.shape[-2:])

    @classmethod
    def shape_of(cls, factors: Factors) -> tuple[int, ...]:
        return (*factors["u"].shape[:-1], factors["v"].shape[-1])

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        u, v = cls.unfold(factors)
        return (u @ v).reshape(cls.shape_of(factors))

    def product(self) -> Any:
        return ops.matmul(self.u, ops.reshape(self.v, self.v.shape[-2:]))

    def call(self, inputs: Any) -> Any:
        x = self.conv(
            inputs, self.u, strides=self.strides, dilation_rate=self.dilation_rate
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        geometry = {"strides": self.strides, "dilation_rate": self.dilation_rate}
        return [
            self.part("u", factors["u"], **geometry),
            self.part("v", factors["v"], last=True),
        ]


@register
class ChannelSVDConv1D(ChannelSVDConv):
    """`ChannelSVDConv2D` along one axis.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv1D`.
        ranks: the rank `r`, at most `min(taps * in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, steps, channels)`.

    Example:
        >>> conv = keras.layers.Conv1D(64, 3)
        >>> conv.build((None, 32, 64))
        >>> ChannelSVDConv1D.from_layer(conv, 16).kernel().shape
        (3, 64, 64)
    """

    targets = (keras.layers.Conv1D,)
    stock = keras.layers.Conv1D
    dims = 1


@register
class ChannelSVDConv2D(ChannelSVDConv):
    """A convolution to `r` channels, followed by a 1×1 convolution.

    The SVD of the kernel as a matrix `(taps * in, out)`: scheme 1 of Zhang et al. 2016
    (section 3.1). For a 1×1 convolution it is MUSCO's choice.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`.
        ranks: the rank `r`, at most `min(taps * in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> ChannelSVDConv2D.from_layer(conv, 16).kernel().shape
        (3, 3, 64, 64)
    """

    targets = (keras.layers.Conv2D,)
    stock = keras.layers.Conv2D
    dims = 2


@register
class ChannelSVDConv3D(ChannelSVDConv):
    """`ChannelSVDConv2D` along three axes.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv3D`.
        ranks: the rank `r`, at most `min(taps * in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, depth, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv3D(32, 3)
        >>> conv.build((None, 8, 8, 8, 32))
        >>> ChannelSVDConv3D.from_layer(conv, 8).kernel().shape
        (3, 3, 3, 32, 32)
    """

    targets = (keras.layers.Conv3D,)
    stock = keras.layers.Conv3D
    dims = 3
