"""Truncated singular value decomposition of matrices of any aspect ratio."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from tfcompress.linalg.blas import (
    column_gram,
    gram_spectrum,
    leading_eigenvectors,
    product,
    row_gram,
)

# From this size of the short side on, its Gram matrix is several times cheaper than a
# direct SVD.
_GRAM_FROM = 128
# Squaring halves the digits. Up to this size of the short side float64 makes up for
# it at little cost; above, float32 leaves the singular values over 3e-4 of the largest,
# far below any that a truncation keeps.
_FLOAT64_TO = 1024


def check_matrix(matrix: np.ndarray) -> np.ndarray:
    """The array itself, if it is a finite, non-empty matrix; else a ValueError."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"A non-empty matrix is needed. Received: shape={matrix.shape}"
        )
    if not np.all(np.isfinite(matrix)):
        raise ValueError(
            "The matrix holds NaN or infinity: the weights it comes from are broken. "
            f"Received: {np.count_nonzero(~np.isfinite(matrix))} such values"
        )
    return matrix


def _working_copy(matrix: np.ndarray) -> np.ndarray:
    """The matrix in its working precision: itself where it has it already."""
    double = min(matrix.shape) <= _FLOAT64_TO or matrix.dtype == np.float64
    return np.ascontiguousarray(matrix, dtype=np.float64 if double else np.float32)


def _short_gram(work: np.ndarray) -> np.ndarray:
    return row_gram(work) if work.shape[0] <= work.shape[1] else column_gram(work)


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """All singular values, largest first.

    Args:
        matrix: array of shape `(m, n)`.

    Returns:
        Float64 array of shape `(min(m, n),)`. From 128 rows and columns on, values
        below 1e-7 of the largest are rounding noise; above 1024, and not given in
        float64, those below 3e-4.

    Raises:
        ValueError: the array is no matrix, is empty, or holds NaN or infinity.

    Example:
        >>> singular_values(np.diag([3.0, 4.0]))
        array([4., 3.])
    """
    work = _working_copy(check_matrix(matrix))
    if min(work.shape) < _GRAM_FROM:
        return scipy.linalg.svdvals(work, check_finite=False)
    return gram_spectrum(_short_gram(work))


def truncated_svd(
    matrix: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best approximation of rank `rank` in the Frobenius norm (Eckart and Young).

    Args:
        matrix: array of shape `(m, n)`.
        rank: number of singular triplets to keep, from 1 to `min(m, n)`.

    Returns:
        `(u, s, vt)` with shapes `(m, rank)`, `(rank,)`, `(rank, n)`;
        `(u * s) @ vt` approximates `matrix`.

    Raises:
        ValueError: the rank is out of range, or the matrix is not finite.

    Example:
        >>> u, s, vt = truncated_svd(np.eye(3), 2)
        >>> u.shape, s.shape, vt.shape
        ((3, 2), (2,), (2, 3))
    """
    matrix = check_matrix(matrix)
    short = min(matrix.shape)
    if not 1 <= rank <= short:
        raise ValueError(f"rank must lie in [1, {short}]. Received: rank={rank}")
    work = _working_copy(matrix)
    if short < _GRAM_FROM or (work.dtype == np.float32 and rank > short // 2):
        # Large nearly square matrices at high rank come here too: in float32 the Gram
        # route would lose the small singular directions that a high rank keeps.
        u, s, vt = scipy.linalg.svd(work, full_matrices=False, check_finite=False)
        return u[:, :rank], s[:rank], vt[:rank]
    return _gram_svd(work, rank)


def _gram_svd(work: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Eigenvectors of the short side's Gram matrix span the dominant subspace; the
    # long side follows by projection, which loses no more than the subspace does.
    wide = work.shape[0] <= work.shape[1]
    basis = leading_eigenvectors(_short_gram(work), rank)
    image = product(work.T if wide else work, basis)
    s = np.sqrt(np.einsum("ij,ij->j", image, image))
    if s.min() > np.finfo(s.dtype).eps ** 0.25 * s.max():
        # The columns are at right angles up to eps * (largest / smallest)².
        order = np.argsort(-s, kind="stable")
        basis, s, image = basis[:, order], s[order], image[:, order] / s[order]
        return (basis, s, image.T) if wide else (image, s, basis.T)
    # A wider spread: QR and a small SVD keep rounding errors out of the factors.
    q, r = scipy.linalg.qr(image, mode="economic", check_finite=False)
    inner_u, s, inner_vt = scipy.linalg.svd(r.T, check_finite=False)
    u, vt = product(basis, inner_u), product(inner_vt, q.T)
    return (u, s, vt) if wide else (vt.T, s, u.T)


def balanced_factors(
    u: np.ndarray, s: np.ndarray, vt: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Splits the singular values evenly: `u sqrt(s)` and `sqrt(s) vt`.

    Equal norms keep the gradients of both factors on one scale ("spectral
    initialisation", Khodak et al. 2021, section 3).

    Args:
        u: shape `(m, r)`.
        s: shape `(r,)`, non-negative.
        vt: shape `(r, n)`.

    Returns:
        Two matrices of shapes `(m, r)` and `(r, n)`.

    Example:
        >>> left, right = balanced_factors(np.eye(2), np.array([4.0, 1.0]), np.eye(2))
        >>> left
        array([[2., 0.],
               [0., 1.]])
    """
    root = np.sqrt(s)
    return u * root, root[:, None] * vt
