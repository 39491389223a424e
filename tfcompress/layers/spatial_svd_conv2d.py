"""SpatialSVDConv2D: a k×1 convolution, then 1×k."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.conv import FactorizedConv, spatial
from tfcompress.layers.interface import Factors
from tfcompress.layers.pair import PairType
from tfcompress.layers.registry import register
from tfcompress.linalg import Moments, weighted_tucker2, weighted_tucker2_errors
from tfcompress.spec import LayerSpec


def _by_column(moments: Moments, kh: int, kw: int, n_in: int) -> Moments:
    """Moments of patches in the order (column, (row, channel))."""
    if moments.size == n_in:

        def square(matrix: np.ndarray) -> np.ndarray:
            return np.kron(np.eye(kh), matrix)

        def row(mean: np.ndarray) -> np.ndarray:
            return np.tile(mean, kh)
    else:
        order = np.arange(kh * kw * n_in).reshape(kh, kw, n_in).swapaxes(0, 1).ravel()

        def square(matrix: np.ndarray) -> np.ndarray:
            return matrix[np.ix_(order, order)]

        def row(mean: np.ndarray) -> np.ndarray:
            return mean[order]

    sorted_ = Moments(square(moments.second), row(moments.mean), moments.count)
    if moments.cross is None:
        return sorted_
    return dataclasses.replace(
        sorted_, cross=square(moments.cross), target_mean=row(moments.target_mean)
    )


def _columns(kernel: np.ndarray) -> np.ndarray:
    """`(kh, kw, in, out)` as `(kw, kh*in, out)`."""
    kh, kw, n_in, n_out = kernel.shape
    return kernel.swapaxes(0, 1).reshape(kw, kh * n_in, n_out)


@register
class SpatialSVDConv2D(PairType, FactorizedConv):
    """A k×1 convolution to `r` channels, followed by a 1×k convolution.

    The SVD of the kernel as a matrix `(kh*in, kw*out)`: scheme 2 of Jaderberg et al.
    2014 (section 2.2). Strides, padding and dilation split by axis, exactly. With
    moments of the inputs the first factor spans the whitened columns and the second
    is the regression of the outputs on what the first lets through.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`.
        ranks: the rank `r`, at most `min(kh*in, kw*filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> [tuple(w.shape) for w in SpatialSVDConv2D.from_layer(conv, 16).weights]
        [(3, 1, 64, 16), (1, 3, 16, 64), (64,)]
    """

    targets = (keras.layers.Conv2D,)
    stock = keras.layers.Conv2D
    dims = 2

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if 1 in layer.kernel_size:
            return "kernel of one row or column: nothing to separate"
        return super().supports(layer)

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        kh, kw, n_in, n_out = kernel_shape
        return ((kh * n_in, kw * n_out),)

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
    def unfolded(cls, kernel: np.ndarray) -> np.ndarray:
        kh, kw, n_in, n_out = kernel.shape
        return kernel.transpose(0, 2, 1, 3).reshape(kh * n_in, kw * n_out)

    @classmethod
    def fold(cls, u: np.ndarray, v: np.ndarray, shape: tuple[int, ...]) -> Factors:
        kh, kw, n_in, n_out = shape
        return {
            "u": u.reshape(kh, 1, n_in, -1),
            "v": v.reshape(1, -1, kw, n_out).swapaxes(1, 2),
        }

    @classmethod
    def unfold(cls, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        u, v = factors["u"], factors["v"]
        rank = u.shape[3]
        return u.reshape(-1, rank), v[0].swapaxes(0, 1).reshape(rank, -1)

    @classmethod
    def shape_of(cls, factors: Factors) -> tuple[int, ...]:
        kh, _, n_in, _ = factors["u"].shape
        _, kw, _, n_out = factors["v"].shape
        return (kh, kw, n_in, n_out)

    @classmethod
    def decompose(
        cls,
        kernel: np.ndarray,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        if moments is None:
            return super().decompose(kernel, ranks)
        moments = _by_column(moments, *kernel.shape[:3])
        return cls._weighted(_columns(kernel), ranks[0], moments, kernel.shape)

    @classmethod
    def truncate_factors(
        cls,
        factors: Factors,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        if moments is None:
            return super().truncate_factors(factors, ranks)
        core, q, moments, shape = cls._core(factors, moments)
        core = moments.target(core.reshape(-1, core.shape[2])).reshape(core.shape)
        return cls._weighted(core, ranks[0], moments, shape, q)

    @classmethod
    def errors(
        cls,
        kernel: np.ndarray,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        if moments is None:
            return super().errors(kernel, candidates)
        moments = _by_column(moments, *kernel.shape[:3])
        return _errors(_columns(kernel), candidates, moments)

    def factor_errors(
        self,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        if moments is None:
            return super().factor_errors(candidates)
        core, _, moments, _ = self._core(self.factors(), moments)
        return _errors(core, candidates, moments)

    @classmethod
    def _weighted(
        cls,
        tensor: np.ndarray,
        rank: int,
        moments: Moments,
        shape: tuple[int, ...],
        q: np.ndarray | None = None,
    ) -> Factors:
        # Tucker-2 of the columns with the output mode left whole.
        kw, _, n_out = tensor.shape
        core, u, out = weighted_tucker2(tensor, (rank, n_out), moments)
        v = (core @ out.T).swapaxes(0, 1).reshape(rank, kw * n_out)
        u = u if q is None else q @ u
        scale = np.sqrt(np.linalg.norm(v) / max(np.linalg.norm(u), 1e-30)) or 1.0
        return cls.fold(u * scale, v / scale, shape)

    @classmethod
    def _core(
        cls, factors: Factors, moments: Moments
    ) -> tuple[np.ndarray, np.ndarray, Moments, tuple[int, ...]]:
        shape = cls.shape_of(factors)
        q, r = np.linalg.qr(np.asarray(cls.unfold(factors)[0], np.float64))
        core = np.matmul(r, factors["v"][0])
        return core, q, _by_column(moments, *shape[:3]).project(q), shape

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        return np.einsum("hir,wro->hwio", factors["u"][:, 0], factors["v"][0])

    @classmethod
    def mean_response(cls, factors: Factors, mean: np.ndarray) -> np.ndarray:
        u, v = factors["u"][:, 0], factors["v"][0]
        kh, n_in, _ = u.shape
        inner = np.einsum("hwi,hir->wr", mean.reshape(kh, -1, n_in), u)
        return np.einsum("wr,wro->o", inner, v)

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


def _errors(
    tensor: np.ndarray, candidates: Sequence[tuple[int, ...]], moments: Moments
) -> np.ndarray:
    pairs = [(rank, tensor.shape[2]) for (rank,) in candidates]
    return weighted_tucker2_errors(tensor, pairs, moments)
