"""Truncated singular value decomposition of matrices of any aspect ratio."""

from __future__ import annotations

import numpy as np
import scipy.linalg

# Above this size of the short side the Gram matrix is cheaper than a direct SVD, and
# its loss of precision in the smallest singular values does not matter for ranks.
_GRAM_FROM = 1024


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


def _work_dtype(matrix: np.ndarray) -> type:
    # Large float32 matrices stay in float32: twice as fast, and the error of
    # 1e-6 relative is far below any truncation.
    small = min(matrix.shape) <= _GRAM_FROM // 2
    return np.float64 if small or matrix.dtype == np.float64 else np.float32


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """All singular values, largest first.

    Args:
        matrix: array of shape `(m, n)`.

    Returns:
        Float64 array of shape `(min(m, n),)`.

    Raises:
        ValueError: the array is no matrix, is empty, or holds NaN or infinity.

    Example:
        >>> singular_values(np.diag([3.0, 4.0]))
        array([4., 3.])
    """
    matrix = check_matrix(matrix)
    work = matrix.astype(_work_dtype(matrix), copy=False)
    if min(work.shape) < _GRAM_FROM:
        return scipy.linalg.svdvals(work, check_finite=False).astype(np.float64)
    gram = work @ work.T if work.shape[0] <= work.shape[1] else work.T @ work
    eigenvalues = scipy.linalg.eigvalsh(gram, check_finite=False)[::-1]
    return np.sqrt(np.maximum(eigenvalues.astype(np.float64), 0.0))


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
    m, n = matrix.shape
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"rank must lie in [1, {min(m, n)}]. Received: rank={rank}")
    work = matrix.astype(_work_dtype(matrix), copy=False)
    short = min(m, n)
    if short < _GRAM_FROM or rank > short // 2:
        # Large nearly square matrices at high rank come here too: the Gram route
        # would lose the small singular directions that a high rank keeps.
        u, s, vt = scipy.linalg.svd(work, full_matrices=False, check_finite=False)
        return u[:, :rank], s[:rank], vt[:rank]
    return _gram_svd(work, rank)


def _gram_svd(work: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Eigenvectors of the short side's Gram matrix span the dominant subspace; the
    # long side follows by projection, orthogonalised by QR so that errors of the
    # squared condition number do not reach the factors.
    wide = work.shape[0] <= work.shape[1]
    short = work if wide else work.T
    gram = short @ short.T
    size = gram.shape[0]
    _, basis = scipy.linalg.eigh(
        gram, subset_by_index=(size - rank, size - 1), check_finite=False
    )
    q, r = scipy.linalg.qr(short.T @ basis, mode="economic", check_finite=False)
    inner_u, s, inner_vt = scipy.linalg.svd(r.T, check_finite=False)
    u, vt = basis @ inner_u, inner_vt @ q.T
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
    """
    root = np.sqrt(s)
    return u * root, root[:, None] * vt
