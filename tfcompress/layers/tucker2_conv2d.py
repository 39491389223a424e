"""Tucker2Conv2D: 1×1, a k×k core, 1×1."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.base import Factors
from tfcompress.layers.conv2d import FactorizedConv2D, spatial
from tfcompress.layers.registry import register
from tfcompress.linalg import multi_mode_spectra, tucker2, tucker2_to_tensor
from tfcompress.spec import LayerSpec


def _taps(kernel: np.ndarray) -> np.ndarray:
    """`(kh, kw, in, out)` as `(kh*kw, in, out)`."""
    return kernel.reshape(-1, *kernel.shape[2:])


def _balanced(core: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    # HOOI leaves orthonormal outer factors and the whole norm in the core; equal
    # root mean squares per factor keep gradients on one scale when fine-tuning.
    sizes = [np.sqrt(np.mean(np.square(x))) for x in (u, core, v)]
    if min(sizes) <= 0.0:
        return core, u, v
    mean = float(np.prod(sizes)) ** (1.0 / 3.0)
    return core * (mean / sizes[1]), u * (mean / sizes[0]), v * (mean / sizes[2])


def _orthogonal(
    factors: Factors,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(core, q_in, q_out)` of the same tensor with orthonormal outer factors."""
    q_in, r_in = np.linalg.qr(np.asarray(factors["u"][0, 0], np.float64))
    q_out, r_out = np.linalg.qr(np.asarray(factors["v"][0, 0], np.float64).T)
    core = np.matmul(r_in, _taps(factors["core"])) @ r_out.T
    return core, q_in, q_out


@register
class Tucker2Conv2D(FactorizedConv2D):
    """1×1 to `r_in` channels, a k×k core to `r_out` channels, 1×1 to `filters`.

    Tucker decomposition of the two channel modes (Kim et al. 2016, section 3.2); the
    default of MUSCO for k×k convolutions.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`; strides and dilation go to the core.
        ranks: `(r_in, r_out)`, at most `(in, filters)`.

    Example:
        >>> conv = keras.layers.Conv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> Tucker2Conv2D.from_layer(conv, (16, 24)).count_params()
        6080
    """

    rank_count = 2
    factor_names = ("u", "core", "v")

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if tuple(layer.kernel_size) == (1, 1):
            return "1x1 convolution: a pair of factors does the same for less"
        return super().supports(layer)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        kh, kw, n_in, n_out = kernel_shape
        return (min(n_in, kh * kw * n_out), min(n_out, kh * kw * n_in))

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        kh, kw, n_in, n_out = kernel_shape
        return {
            "u": (1, 1, n_in, ranks[0]),
            "core": (kh, kw, ranks[0], ranks[1]),
            "v": (1, 1, ranks[1], n_out),
        }

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        kh, kw, n_in, n_out = kernel_shape
        r_in, r_out = ranks
        total = 0
        for call in spec.calls:
            before, after = (math.prod(hw) for hw in spatial(call, spec.layer))
            total += before * n_in * r_in
            total += after * (kh * kw * r_in * r_out + r_out * n_out)
        return total

    @classmethod
    def decompose(cls, kernel: np.ndarray, ranks: tuple[int, ...]) -> Factors:
        core, u, v = _balanced(*tucker2(_taps(kernel), ranks))
        return {
            "u": u[None, None],
            "core": core.reshape(*kernel.shape[:2], *ranks),
            "v": v.T[None, None],
        }

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        core = factors["core"]
        tensor = tucker2_to_tensor(
            _taps(core), factors["u"][0, 0], factors["v"][0, 0].T
        )
        return tensor.reshape(*core.shape[:2], *tensor.shape[1:])

    @classmethod
    def truncate_factors(cls, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        core, q_in, q_out = _orthogonal(factors)
        inner, u, v = tucker2(core, ranks)
        inner, u, v = _balanced(inner, q_in @ u, q_out @ v)
        return {
            "u": u[None, None],
            "core": inner.reshape(*factors["core"].shape[:2], *ranks),
            "v": v.T[None, None],
        }

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return multi_mode_spectra(_taps(kernel))

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        kh, kw, n_in, n_out = kernel_shape
        return ((n_in, kh * kw * n_out), (n_out, kh * kw * n_in))

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        return multi_mode_spectra(_orthogonal(self.factors())[0])

    def product(self) -> Any:
        return ops.einsum("ir,hwrs,so->hwio", self.u[0, 0], self.core, self.v[0, 0])

    def call(self, inputs: Any) -> Any:
        x = self.conv(inputs, self.u)
        x = self.conv(
            x, self.core, strides=self.strides, dilation_rate=self.dilation_rate
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors = self.factors()
        return [
            self.part("u", factors["u"]),
            self.part(
                "core",
                factors["core"],
                strides=self.strides,
                dilation_rate=self.dilation_rate,
            ),
            self.part("v", factors["v"], last=True),
        ]
