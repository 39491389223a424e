"""CPConv2D: 1×1, a depthwise convolution, 1×1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfcompress.errors import DegenerateError
from tfcompress.layers.conv import FactorizedConv, pointwise, spatial
from tfcompress.layers.interface import Factors
from tfcompress.layers.registry import register
from tfcompress.layers.support import stock_layer
from tfcompress.linalg import (
    Moments,
    cp_max_rank,
    cp_to_tensor,
    weighted_cp,
    weighted_cp_errors,
)
from tfcompress.spec import LayerSpec


def _matrices(factors: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(a, b, c)`: `(taps, r)`, `(in, r)` and `(out, r)`."""
    u, v = factors["u"][0, 0], factors["v"][0, 0]
    return factors["d"].reshape(-1, u.shape[1]), u, v.T


def _orthogonal(
    factors: Factors,
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Terms of the small core between orthonormal bases of both channel modes."""
    a, b, c = (np.asarray(x, np.float64) for x in _matrices(factors))
    q_in, b = np.linalg.qr(b)
    q_out, c = np.linalg.qr(c)
    return (a, b, c), q_in, q_out


@register
class CPConv2D(FactorizedConv):
    """1×1 to `r` channels, a depthwise k×k convolution, 1×1 to `filters`.

    CP decomposition of the kernel `(taps, in, out)` (Lebedev et al. 2015) with the
    error-preserving correction (Phan et al. 2020), without which it is unstable. It has
    the fewest weights of all types at one rank, and is meant for small ranks: an exact
    product takes `min(taps*in, taps*filters, in*filters)` terms, far more than make the
    layer smaller. No spectrum tells its rank, and its errors are estimated: selectors
    take it where it is asked for by name.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`; strides, one for both axes, and dilation go to the
            depthwise part.
        ranks: the rank `r`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> [tuple(w.shape) for w in CPConv2D.from_layer(conv, 16).weights]
        [(1, 1, 64, 16), (3, 3, 16, 1), (1, 1, 16, 64), (64,)]
    """

    targets = (keras.layers.Conv2D,)
    stock = keras.layers.Conv2D
    dims = 2
    factor_names = ("u", "d", "v")
    spectral = False

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if math.prod(layer.kernel_size) == 1:
            return "1x1 convolution: a pair of factors does the same for less"
        if len(set(layer.strides)) > 1:
            return "strides differ by axis: a depthwise convolution takes one for both"
        return super().supports(layer)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (cp_max_rank((math.prod(kernel_shape[:2]), *kernel_shape[2:])),)

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        kh, kw, n_in, n_out = kernel_shape
        return {
            "u": (1, 1, n_in, ranks[0]),
            "d": (kh, kw, ranks[0], 1),
            "v": (1, 1, ranks[0], n_out),
        }

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        kh, kw, n_in, n_out = kernel_shape
        total = 0
        for call in spec.calls:
            before, after = (math.prod(sizes) for sizes in spatial(call, spec.layer))
            total += ranks[0] * (before * n_in + after * (kh * kw + n_out))
        return total

    @classmethod
    def _fold(
        cls, a: np.ndarray, b: np.ndarray, c: np.ndarray, size: tuple[int, ...]
    ) -> Factors:
        return {
            "u": pointwise(b, 2),
            "d": a.reshape(*size, -1, 1),
            "v": pointwise(c.T, 2),
        }

    @classmethod
    def from_layer(
        cls,
        layer: keras.layers.Layer,
        ranks: int | Sequence[int],
        statistics: Moments | None = None,
    ) -> Self:
        """As in `FactorizedLayer`.

        Raises:
            DegenerateError: at this rank the terms grow and cancel each other.
        """
        try:
            return super().from_layer(layer, ranks, statistics)
        except DegenerateError as error:
            raise DegenerateError(f"Layer '{layer.name}': {error}") from None

    @classmethod
    def decompose(
        cls,
        kernel: np.ndarray,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        tensor = kernel.reshape(-1, *kernel.shape[2:])
        found = weighted_cp(tensor, ranks[0], moments)
        if found.degenerate:
            raise DegenerateError(
                f"CP degenerates at rank {ranks[0]} (its terms grow and cancel each "
                f"other; stable ones lose {found.error:.1%} of the norm): use "
                "Tucker2Conv2D, or another rank. "
                f"Received: a kernel of shape {kernel.shape}"
            )
        return cls._fold(*found.terms, kernel.shape[:2])

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        tensor = cp_to_tensor(*_matrices(factors))
        return tensor.reshape(*factors["d"].shape[:2], *tensor.shape[1:])

    @classmethod
    def truncate_factors(
        cls,
        factors: Factors,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        """As in `LayerType`: the best stable terms found from the largest ones.

        There is no unique truncation of CP terms. They never degenerate: their energy
        is held within the limit, at the cost of a larger error.
        """
        if ranks[0] == factors["u"].shape[-1]:
            return dict(factors)
        (a, b, c), q_in, q_out = _orthogonal(factors)
        seen, white = None, b
        if moments is not None:
            seen = moments.project(q_in)
            white = seen.channels(len(b)).whiten(b)
        sizes = [np.linalg.norm(x, axis=0) for x in (a, white, c)]
        largest = np.argsort(-np.prod(sizes, axis=0), kind="stable")[: ranks[0]]
        start = (a[:, largest], b[:, largest], c[:, largest])
        wanted = cp_to_tensor(a, b, c)
        if seen is not None:
            wanted = seen.target(wanted.reshape(-1, len(c))).reshape(wanted.shape)
        a, b, c = weighted_cp(wanted, ranks[0], seen, start=start).terms
        return cls._fold(a, q_in @ b, q_out @ c, factors["d"].shape[:2])

    @classmethod
    def errors(
        cls,
        kernel: np.ndarray,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        """As in `LayerType`, estimated: see `weighted_cp_errors`."""
        tensor = kernel.reshape(-1, *kernel.shape[2:])
        return weighted_cp_errors(tensor, [rank for (rank,) in candidates], moments)

    def factor_errors(
        self,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        terms, q_in, _ = _orthogonal(self.factors())
        seen = None if moments is None else moments.project(q_in)
        ranks = np.array([rank for (rank,) in candidates])
        errors = np.zeros(len(ranks))
        cut = ranks < self.ranks[0]
        if np.any(cut):
            errors[cut] = weighted_cp_errors(cp_to_tensor(*terms), ranks[cut], seen)
        return errors

    @classmethod
    def mean_response(cls, factors: Factors, mean: np.ndarray) -> np.ndarray:
        a, b, c = _matrices(factors)
        return np.sum(a * (mean.reshape(len(a), -1) @ b), axis=0) @ c.T

    def product(self) -> Any:
        d = ops.reshape(self.d, (*self.kernel_size, 1, self.ranks[0]))
        return ops.matmul(ops.multiply(d, self.u[0, 0]), self.v[0, 0])

    def call(self, inputs: Any) -> Any:
        x = ops.depthwise_conv(
            self.conv(inputs, self.u),
            self.d,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        shape: list[int | None] = [None] * 4
        shape[self.channel_axis()] = self.ranks[0]
        depthwise = stock_layer(
            keras.layers.DepthwiseConv2D,
            [factors["d"]],
            tuple(shape),
            name=f"{self.name}_d",
            dtype=self.get_config()["dtype"],
            trainable=self.trainable,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            use_bias=False,
        )
        return [
            self.part("u", factors["u"]),
            depthwise,
            self.part("v", factors["v"], last=True),
        ]
