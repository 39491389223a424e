"""Layers that are a pair of factors `u @ v` of the kernel as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcompress.layers.interface import Factors, LayerType
from tfcompress.linalg import (
    Moments,
    balanced_factors,
    rebalanced,
    singular_values,
    truncated_svd,
    weighted_svd,
    weighted_svd_errors,
)


class PairType(LayerType):
    """A layer type of one rank: the SVD of its kernel as a matrix.

    A subclass says how a pair becomes factors and back (`fold`, `unfold`), and which
    unfolding of the kernel is cut (`unfolded`), if not `as_matrix`.
    """

    factor_names = ("u", "v")

    @classmethod
    def unfolded(cls, kernel: np.ndarray) -> np.ndarray:
        """The matrix whose singular values are cut."""
        return cls.as_matrix(kernel)

    @classmethod
    def fold(cls, u: np.ndarray, v: np.ndarray, shape: tuple[int, ...]) -> Factors:
        """Matrices `(m, r)` and `(r, n)` as factors for a kernel of that shape."""
        raise NotImplementedError

    @classmethod
    def unfold(cls, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `fold`."""
        raise NotImplementedError

    @classmethod
    def shape_of(cls, factors: Factors) -> tuple[int, ...]:
        """Shape of the kernel that factors stand for."""
        raise NotImplementedError

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        ((rows, columns),) = cls.unfolding_shapes(kernel_shape)
        return (min(rows, columns),)

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        return ((int(np.prod(kernel_shape[:-1])), kernel_shape[-1]),)

    @classmethod
    def decompose(
        cls,
        kernel: np.ndarray,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        u, v = weighted_svd(cls.unfolded(kernel), ranks[0], moments)
        return cls.fold(u, v, kernel.shape)

    @classmethod
    def truncate_factors(
        cls,
        factors: Factors,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        u, v = truncate_pair(*cls.unfold(factors), ranks[0], moments)
        return cls.fold(u, v, cls.shape_of(factors))

    @classmethod
    def errors(
        cls,
        kernel: np.ndarray,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        ranks = [rank for (rank,) in candidates]
        return weighted_svd_errors(cls.unfolded(kernel), ranks, moments)

    def factor_errors(
        self,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        ranks = [rank for (rank,) in candidates]
        _, core, right = _small_core(*self.unfold(self.factors()), moments)
        return weighted_svd_errors(core @ right, ranks)

    @classmethod
    def mean_response(cls, factors: Factors, mean: np.ndarray) -> np.ndarray:
        u, v = cls.unfold(factors)
        return (mean @ u) @ v

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return (singular_values(cls.unfolded(kernel)),)

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        return (pair_spectrum(*self.unfold(self.factors())),)


class MatrixPair(PairType):
    """A pair type whose kernel is a matrix `(inputs, outputs)`, as are its factors."""

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        inputs, outputs = kernel_shape
        return {"u": (inputs, ranks[0]), "v": (ranks[0], outputs)}

    @classmethod
    def fold(cls, u: np.ndarray, v: np.ndarray, shape: tuple[int, ...]) -> Factors:
        return {"u": u, "v": v}

    @classmethod
    def unfold(cls, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        return factors["u"], factors["v"]

    @classmethod
    def shape_of(cls, factors: Factors) -> tuple[int, ...]:
        return (factors["u"].shape[0], factors["v"].shape[1])

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        return factors["u"] @ factors["v"]

    def kernel_shape(self) -> tuple[int, ...]:
        return (self.u.shape[0], self.v.shape[1])

    def product(self) -> Any:
        return ops.matmul(self.u, self.v)


def svd_pair(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Balanced factors of the best rank-`rank` approximation of a matrix."""
    return balanced_factors(*truncated_svd(matrix, rank))


def _small_core(
    u: np.ndarray, v: np.ndarray, moments: Moments | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`u @ v = q @ core @ right`, `q` orthonormal (in the metric of the moments)."""
    q_right, r_right = np.linalg.qr(np.asarray(v, np.float64).T)
    u = np.asarray(u, np.float64)
    white = u if moments is None else moments.whiten(u)
    q, r = np.linalg.qr(white)
    return q, r @ r_right.T, q_right.T


def truncate_pair(
    u: np.ndarray, v: np.ndarray, rank: int, moments: Moments | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `u @ v` to a lower rank.

    Equals the truncated SVD of the full product: QR of both factors, SVD of the small
    core between them. Cutting the SVD of one factor alone, as musco does, is worse.

    Args:
        u: shape `(m, r)`.
        v: shape `(r, n)`.
        rank: at most `r`.
        moments: of the inputs: best for the outputs, as `weighted_svd` of the product;
            in the asymmetric mode `u` is taken to its `target` first.

    Returns:
        Balanced factors of shapes `(m, rank)` and `(rank, n)`.
    """
    if moments is not None:
        # The target is linear in the kernel: that of `u @ v` is that of `u`, times v.
        u = moments.target(np.asarray(u, np.float64))
    q, core, right = _small_core(u, v, moments)
    left, inner = svd_pair(core, min(rank, *core.shape))
    if left.shape[1] < rank:
        # A rank above both sides of the product: the surplus carries nothing.
        pad = rank - left.shape[1]
        left = np.pad(left, ((0, 0), (0, pad)))
        inner = np.pad(inner, ((0, pad), (0, 0)))
    left, right = q @ left, inner @ right
    if moments is None:
        return left, right
    return rebalanced(moments.unwhiten(left), right)


def pair_spectrum(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Singular values of `u @ v`."""
    return singular_values(_small_core(u, v)[1])
