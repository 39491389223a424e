"""Pairs of factors `u @ v`: made, cut and measured without forming the product."""

from __future__ import annotations

import numpy as np

from tfcompress.linalg import balanced_factors, singular_values, truncated_svd


def svd_pair(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Balanced factors of the best rank-`rank` approximation of a matrix."""
    return balanced_factors(*truncated_svd(matrix, rank))


def _small_core(
    u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal bases and the core between them: `u @ v = qu @ core @ qv.T`."""
    qu, ru = np.linalg.qr(np.asarray(u, np.float64))
    qv, rv = np.linalg.qr(np.asarray(v, np.float64).T)
    return qu, ru @ rv.T, qv


def truncate_pair(
    u: np.ndarray, v: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `u @ v` to a lower rank.

    Equals the truncated SVD of the full product: QR of both factors, SVD of the small
    core between them. Cutting the SVD of one factor alone, as musco does, is worse.

    Args:
        u: shape `(m, r)`.
        v: shape `(r, n)`.
        rank: at most `r`.

    Returns:
        Balanced factors of shapes `(m, rank)` and `(rank, n)`.
    """
    qu, core, qv = _small_core(u, v)
    left, right = svd_pair(core, min(rank, *core.shape))
    if left.shape[1] < rank:
        # A rank above both sides of the product: the surplus carries nothing.
        pad = rank - left.shape[1]
        left = np.pad(left, ((0, 0), (0, pad)))
        right = np.pad(right, ((0, pad), (0, 0)))
    return qu @ left, right @ qv.T


def pair_spectrum(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Singular values of `u @ v`."""
    return singular_values(_small_core(u, v)[1])
