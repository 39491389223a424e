"""ChannelSVDConv2D: a k×k convolution to r channels, then 1×1."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.base import Factors
from tfcompress.layers.conv2d import FactorizedConv2D, spatial
from tfcompress.layers.pair import pair_spectrum, svd_pair, truncate_pair
from tfcompress.layers.registry import register
from tfcompress.linalg import singular_values
from tfcompress.spec import LayerSpec


def _matrix(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(-1, kernel.shape[-1])


@register
class ChannelSVDConv2D(FactorizedConv2D):
    """A k×k convolution to `r` channels, followed by a 1×1 convolution.

    The SVD of the kernel as a matrix `(k*k*in, out)`: scheme 1 of Zhang et al. 2016
    (section 3.1). For a 1×1 convolution it is MUSCO's choice.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`.
        ranks: the rank `r`, at most `min(k*k*in, filters)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> ChannelSVDConv2D.from_layer(conv, 16).kernel().shape
        (3, 3, 64, 64)
    """

    factor_names = ("u", "v")

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (min(math.prod(kernel_shape[:3]), kernel_shape[3]),)

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        kh, kw, n_in, n_out = kernel_shape
        return {"u": (kh, kw, n_in, ranks[0]), "v": (1, 1, ranks[0], n_out)}

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        kh, kw, n_in, n_out = kernel_shape
        each = ranks[0] * (kh * kw * n_in + n_out)
        return sum(math.prod(spatial(c, spec.layer)[1]) * each for c in spec.calls)

    @classmethod
    def decompose(cls, kernel: np.ndarray, ranks: tuple[int, ...]) -> Factors:
        u, v = svd_pair(_matrix(kernel), ranks[0])
        return {"u": u.reshape(*kernel.shape[:3], ranks[0]), "v": v[None, None]}

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        return factors["u"] @ factors["v"][0, 0]

    @classmethod
    def truncate_factors(cls, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        u, v = truncate_pair(_matrix(factors["u"]), factors["v"][0, 0], ranks[0])
        shape = (*factors["u"].shape[:3], ranks[0])
        return {"u": u.reshape(shape), "v": v[None, None]}

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return (singular_values(_matrix(kernel)),)

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        return ((math.prod(kernel_shape[:3]), kernel_shape[3]),)

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        factors = self.factors()
        return (pair_spectrum(_matrix(factors["u"]), factors["v"][0, 0]),)

    def product(self) -> Any:
        return ops.matmul(self.u, self.v[0, 0])

    def call(self, inputs: Any) -> Any:
        x = self.conv(
            inputs, self.u, strides=self.strides, dilation_rate=self.dilation_rate
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        return [
            self.part(
                "u",
                factors["u"],
                strides=self.strides,
                dilation_rate=self.dilation_rate,
            ),
            self.part("v", factors["v"], last=True),
        ]
