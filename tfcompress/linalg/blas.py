"""Products and eigenvectors of matrices by SciPy's BLAS and LAPACK.

The wheels of NumPy and SciPy bring an OpenBLAS each, with threads of its own that spin
for a while after every call. Where products (NumPy) and eigenvectors (SciPy, the only
one to compute them in float32) take turns, two sets of threads contend for the same
cores. So the decompositions call one of the two only.

Gram matrices are kept as their lower triangle, zero above: all that is read of them,
and half the work.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`left @ right`.

    Args:
        left: shape `(m, k)`.
        right: shape `(k, n)`, of the same floating dtype.

    Returns:
        C-contiguous array of shape `(m, n)`.
    """
    gemm = scipy.linalg.get_blas_funcs("gemm", (left, right))
    # BLAS thinks in columns, so it is asked for the transpose: right' @ left'. What
    # lies the other way round in memory is passed with a flag instead of a copy.
    a, trans_a = (right, 1) if right.flags.f_contiguous else (right.T, 0)
    b, trans_b = (left, 1) if left.flags.f_contiguous else (left.T, 0)
    return gemm(1.0, a, b, trans_a=trans_a, trans_b=trans_b).T


def row_gram(matrix: np.ndarray) -> np.ndarray:
    """Lower triangle of `matrix @ matrix.T`.

    Args:
        matrix: C-contiguous, shape `(m, k)`.

    Returns:
        Fortran-contiguous array of shape `(m, m)`.
    """
    syrk = scipy.linalg.get_blas_funcs("syrk", (matrix,))
    return syrk(1.0, matrix.T, trans=1, lower=1)


def column_gram(matrix: np.ndarray) -> np.ndarray:
    """Lower triangle of `matrix.T @ matrix`.

    Args:
        matrix: C-contiguous, shape `(k, n)`.

    Returns:
        Fortran-contiguous array of shape `(n, n)`.
    """
    syrk = scipy.linalg.get_blas_funcs("syrk", (matrix,))
    return syrk(1.0, matrix.T, lower=1)


def gram_product(gram: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Product of a Gram matrix, given by its lower triangle, with `matrix`.

    Args:
        gram: shape `(n, n)`, from `row_gram` or `column_gram`.
        matrix: C-contiguous, shape `(n, r)`, of the same dtype.

    Returns:
        C-contiguous array of shape `(n, r)`.
    """
    symm = scipy.linalg.get_blas_funcs("symm", (gram, matrix))
    return symm(1.0, gram, matrix.T, side=1, lower=1).T


def leading_eigenvectors(gram: np.ndarray, rank: int) -> np.ndarray:
    """Eigenvectors of the `rank` largest eigenvalues, largest first.

    The steps of LAPACK's divide and conquer driver (`syevd`), but the last one, back
    to the basis of the matrix, for the wanted vectors only. That is a fifth faster
    than the driver, which itself takes half the time of those that find only some.

    Args:
        gram: as in `gram_product`; it is overwritten.
        rank: from 1 to `n`.

    Returns:
        C-contiguous array of shape `(n, rank)` with orthonormal columns.

    Raises:
        numpy.linalg.LinAlgError: the iteration failed, as with NaN.
    """
    size = len(gram)
    if size == 1:
        return np.ones_like(gram)
    tridiagonal, solve, rotate = scipy.linalg.get_lapack_funcs(
        ("sytrd", "stevd", "ormqr"), (gram,)
    )
    work = 64 * size  # LAPACK's largest block size
    reflectors, diagonal, beside, scales, _ = tridiagonal(
        gram, lower=1, lwork=work, overwrite_a=1
    )
    _, vectors, failed = solve(diagonal, beside)
    if failed:
        raise np.linalg.LinAlgError(
            "The eigenvectors of a Gram matrix did not converge; is it finite? "
            f"Received: stevd info={failed}"
        )
    vectors = np.asfortranarray(vectors[:, ::-1][:, :rank])
    # The reflectors leave the first coordinate alone.
    vectors[1:], _, _ = rotate(
        "L", "N", reflectors[1:, :-1], scales, vectors[1:], lwork=work
    )
    return np.ascontiguousarray(vectors)


def gram_spectrum(gram: np.ndarray) -> np.ndarray:
    """Square roots of the eigenvalues: the singular values of what `gram` is made of.

    Args:
        gram: as in `gram_product`; it is overwritten.

    Returns:
        Float64 array of shape `(n,)`, largest first. Values below `sqrt(eps)` of the
        largest are rounding noise.
    """
    values = scipy.linalg.eigvalsh(gram, overwrite_a=True, check_finite=False)
    return np.sqrt(np.maximum(values[::-1].astype(np.float64), 0.0))
