"""Tucker2Conv1D, 2D, 3D: 1×1, a core convolution, 1×1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.conv import FactorizedConv, pointwise, spatial
from tfcompress.layers.interface import Factors
from tfcompress.layers.registry import register
from tfcompress.linalg import (
    Moments,
    multi_mode_spectra,
    tucker2_to_tensor,
    weighted_tucker2,
    weighted_tucker2_errors,
)
from tfcompress.spec import LayerSpec


def _taps(kernel: np.ndarray) -> np.ndarray:
    """`(*kernel_size, in, out)` as `(taps, in, out)`."""
    return kernel.reshape(-1, *kernel.shape[-2:])


def _balanced(core: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    # HOOI leaves orthonormal outer factors and the whole norm in the core; equal
    # root mean squares per factor keep gradients on one scale when fine-tuning.
    sizes = [np.sqrt(np.mean(np.square(x))) for x in (u, core, v)]
    if min(sizes) <= 0.0:
        return core, u, v
    mean = float(np.prod(sizes)) ** (1.0 / 3.0)
    return core * (mean / sizes[1]), u * (mean / sizes[0]), v * (mean / sizes[2])


def _matrices(factors: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(core, u, v)`: `(taps, r_in, r_out)`, `(in, r_in)` and `(out, r_out)`."""
    u, v = (factors[name].reshape(factors[name].shape[-2:]) for name in ("u", "v"))
    return _taps(factors["core"]), u, v.T


def _orthogonal(factors: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(core, q_in, q_out)` of the same tensor with orthonormal outer factors."""
    core, u, v = _matrices(factors)
    q_in, r_in = np.linalg.qr(np.asarray(u, np.float64))
    q_out, r_out = np.linalg.qr(np.asarray(v, np.float64))
    return np.matmul(r_in, core) @ r_out.T, q_in, q_out


class Tucker2Conv(FactorizedConv):
    """Base of `Tucker2Conv2D` and its kin."""

    rank_count = 2
    factor_names = ("u", "core", "v")

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if math.prod(layer.kernel_size) == 1:
            return "1x1 convolution: a pair of factors does the same for less"
        return super().supports(layer)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        taps, (n_in, n_out) = math.prod(kernel_shape[:-2]), kernel_shape[-2:]
        return (min(n_in, taps * n_out), min(n_out, taps * n_in))

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        ones = (1,) * cls.dims
        return {
            "u": (*ones, kernel_shape[-2], ranks[0]),
            "core": (*kernel_shape[:-2], *ranks),
            "v": (*ones, ranks[1], kernel_shape[-1]),
        }

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        taps, (n_in, n_out) = math.prod(kernel_shape[:-2]), kernel_shape[-2:]
        r_in, r_out = ranks
        total = 0
        for call in spec.calls:
            before, after = (math.prod(sizes) for sizes in spatial(call, spec.layer))
            total += before * n_in * r_in
            total += after * (taps * r_in * r_out + r_out * n_out)
        return total

    @classmethod
    def _fold(
        cls, core: np.ndarray, u: np.ndarray, v: np.ndarray, size: tuple[int, ...]
    ) -> Factors:
        core, u, v = _balanced(core, u, v)
        return {
            "u": pointwise(u, cls.dims),
            "core": core.reshape(*size, *core.shape[1:]),
            "v": pointwise(v.T, cls.dims),
        }

    @classmethod
    def decompose(
        cls,
        kernel: np.ndarray,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        parts = weighted_tucker2(_taps(kernel), ranks, moments)
        return cls._fold(*parts, kernel.shape[:-2])

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        tensor = tucker2_to_tensor(*_matrices(factors))
        return tensor.reshape(*factors["core"].shape[:-2], *tensor.shape[1:])

    @classmethod
    def truncate_factors(
        cls,
        factors: Factors,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        core, q_in, q_out = _orthogonal(factors)
        seen = None
        if moments is not None:
            seen = moments.project(q_in)
            core = seen.target(core.reshape(-1, core.shape[2])).reshape(core.shape)
        inner, u, v = weighted_tucker2(core, ranks, seen)
        return cls._fold(inner, q_in @ u, q_out @ v, factors["core"].shape[:-2])

    @classmethod
    def errors(
        cls,
        kernel: np.ndarray,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        return weighted_tucker2_errors(_taps(kernel), candidates, moments)

    def factor_errors(
        self,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        core, q_in, _ = _orthogonal(self.factors())
        seen = None if moments is None else moments.project(q_in)
        return weighted_tucker2_errors(core, candidates, seen)

    @classmethod
    def mean_response(cls, factors: Factors, mean: np.ndarray) -> np.ndarray:
        core, u, v = _matrices(factors)
        inner = mean.reshape(-1, u.shape[0]) @ u
        return np.einsum("sr,srq->q", inner, core) @ v.T

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return multi_mode_spectra(_taps(kernel))

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        taps, (n_in, n_out) = math.prod(kernel_shape[:-2]), kernel_shape[-2:]
        return ((n_in, taps * n_out), (n_out, taps * n_in))

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        return multi_mode_spectra(_orthogonal(self.factors())[0])

    def product(self) -> Any:
        u, v = (ops.reshape(x, x.shape[-2:]) for x in (self.u, self.v))
        return ops.matmul(ops.matmul(u, self.core), v)

    def call(self, inputs: Any) -> Any:
        x = self.conv(inputs, self.u)
        x = self.conv(
            x, self.core, strides=self.strides, dilation_rate=self.dilation_rate
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        geometry = {"strides": self.strides, "dilation_rate": self.dilation_rate}
        return [
            self.part("u", factors["u"]),
            self.part("core", factors["core"], **geometry),
            self.part("v", factors["v"], last=True),
        ]


@register
class Tucker2Conv1D(Tucker2Conv):
    """`Tucker2Conv2D` along one axis.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv1D`; strides and dilation go to the core.
        ranks: `(r_in, r_out)`, at most `(in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, steps, channels)`.

    Example:
        >>> conv = keras.layers.Conv1D(64, 3)
        >>> conv.build((None, 32, 64))
        >>> Tucker2Conv1D.from_layer(conv, (16, 24)).count_params()
        3776
    """

    targets = (keras.layers.Conv1D,)
    stock = keras.layers.Conv1D
    dims = 1


@register
class Tucker2Conv2D(Tucker2Conv):
    """1×1 to `r_in` channels, a core convolution to `r_out` channels, 1×1 to `filters`.

    Tucker decomposition of the two channel modes (Kim et al. 2016, section 3.2); the
    default of MUSCO for k×k convolutions.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`; strides and dilation go to the core.
        ranks: `(r_in, r_out)`, at most `(in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> Tucker2Conv2D.from_layer(conv, (16, 24)).count_params()
        6080
    """

    targets = (keras.layers.Conv2D,)
    stock = keras.layers.Conv2D
    dims = 2


@register
class Tucker2Conv3D(Tucker2Conv):
    """`Tucker2Conv2D` along three axes.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv3D`; strides and dilation go to the core.
        ranks: `(r_in, r_out)`, at most `(in, filters)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, depth, height, width, channels)`.

    Example:
        >>> conv = keras.layers.Conv3D(32, 3)
        >>> conv.build((None, 8, 8, 8, 32))
        >>> Tucker2Conv3D.from_layer(conv, (8, 8)).count_params()
        2272
    """

    targets = (keras.layers.Conv3D,)
    stock = keras.layers.Conv3D
    dims = 3
