"""SpatialSVDConv2D: a k×1 convolution, then 1×k."""

from __future__ import annotations

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
    """`(kh, kw, in, out)` as the matrix `(kh*in, kw*out)`."""
    kh, kw, n_in, n_out = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(kh * n_in, kw * n_out)


def _factors(u: np.ndarray, v: np.ndarray, kh: int, kw: int) -> Factors:
    rank = u.shape[1]
    return {
        "u": u.reshape(kh, 1, -1, rank),
        "v": v.reshape(1, rank, kw, -1).transpose(0, 2, 1, 3),
    }


def _matrices(factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    u, v = factors["u"], factors["v"]
    rank = u.shape[3]
    return u.reshape(-1, rank), v.transpose(0, 2, 1, 3).reshape(rank, -1)


@register
class SpatialSVDConv2D(FactorizedConv2D):
    """A k×1 convolution to `r` channels, followed by a 1×k convolution.

    The SVD of the kernel as a matrix `(kh*in, kw*out)`: scheme 2 of Jaderberg et al.
    2014 (section 2.2). Strides, padding and dilation split by axis, exactly.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`.
        ranks: the rank `r`, at most `min(kh*in, kw*filters)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> [v.shape for v in SpatialSVDConv2D.from_layer(conv, 16).weights]
        [(3, 1, 64, 16), (1, 3, 16, 64), (64,)]
    """

    factor_names = ("u", "v")

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if 1 in layer.kernel_size:
            return "kernel of one row or column: nothing to separate"
        return super().supports(layer)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        kh, kw, n_in, n_out = kernel_shape
        return (min(kh * n_in, kw * n_out),)

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        kh, kw, n_in, n_out = kernel_shape
        return {"u": (kh, 1, n_in, ranks[0]), "v": (1, kw, ranks[0], n_out)}

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        kh, kw, n_in, n_out = kernel_shape
        total = 0
        for call in spec.calls:
            (_, in_w), (out_h, out_w) = spatial(call, spec.layer)
            # The first part has strided rows but still all columns.
            total += out_h * in_w * kh * n_in * ranks[0]
            total += out_h * out_w * kw * ranks[0] * n_out
        return total

    @classmethod
    def decompose(cls, kernel: np.ndarray, ranks: tuple[int, ...]) -> Factors:
        u, v = svd_pair(_matrix(kernel), ranks[0])
        return _factors(u, v, kernel.shape[0], kernel.shape[1])

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        return np.einsum("hir,wro->hwio", factors["u"][:, 0], factors["v"][0])

    @classmethod
    def truncate_factors(cls, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        u, v = truncate_pair(*_matrices(factors), ranks[0])
        return _factors(u, v, factors["u"].shape[0], factors["v"].shape[1])

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return (singular_values(_matrix(kernel)),)

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        kh, kw, n_in, n_out = kernel_shape
        return ((kh * n_in, kw * n_out),)

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        return (pair_spectrum(*_matrices(self.factors())),)

    def product(self) -> Any:
        return ops.einsum("hir,wro->hwio", self.u[:, 0], self.v[0])

    def call(self, inputs: Any) -> Any:
        x = self.conv(
            inputs,
            self.u,
            strides=(self.strides[0], 1),
            dilation_rate=(self.dilation_rate[0], 1),
        )
        x = self.conv(
            x,
            self.v,
            strides=(1, self.strides[1]),
            dilation_rate=(1, self.dilation_rate[1]),
        )
        return self.finish(x)

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        return [
            self.part(
                "u",
                factors["u"],
                strides=(self.strides[0], 1),
                dilation_rate=(self.dilation_rate[0], 1),
            ),
            self.part(
                "v",
                factors["v"],
                last=True,
                strides=(1, self.strides[1]),
                dilation_rate=(1, self.dilation_rate[1]),
            ),
        ]
