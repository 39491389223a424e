"""Tucker-2: the two channel modes of a kernel, by HOOI on Gram matrices."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from tfcompress.linalg.blas import (
    column_gram,
    gram_product,
    gram_spectrum,
    leading_eigenvectors,
    product,
    row_gram,
)

# Up to this many channels eigenvectors in float64 cost next to nothing.
_EXACT_TO = 64
# Float32 finds no directions that hold less than about 1e-3 of the tensor's norm. Where
# no more than this share of the energy is lost, they count: float64 is needed.
_FLOAT32_LOSS = 1e-4
# Up to this many channels spectra are computed in float64: squaring leaves of float32
# only the singular values above 3e-4 of the largest.
_SPECTRA_EXACT_TO = 1024


def _check_tensor(tensor: np.ndarray, *, exact_to: int) -> np.ndarray:
    """The tensor in its working precision, as `(in, taps, out)`.

    In that order both channel unfoldings are plain reshapes.
    """
    tensor = np.asarray(tensor)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            "A non-empty tensor (taps, in, out) is needed. "
            f"Received: shape={tensor.shape}"
        )
    if not np.all(np.isfinite(tensor)):
        raise ValueError(
            "The tensor holds NaN or infinity: the weights it comes from are broken. "
            f"Received: {np.count_nonzero(~np.isfinite(tensor))} such values"
        )
    small = max(tensor.shape[1:]) <= exact_to
    return np.ascontiguousarray(
        tensor.transpose(1, 0, 2), dtype=np.float64 if small else np.float32
    )


def _rows(cube: np.ndarray) -> np.ndarray:
    return cube.reshape(cube.shape[0], -1)


def _columns(cube: np.ndarray) -> np.ndarray:
    return cube.reshape(-1, cube.shape[2])


def multi_mode_spectra(tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of both channel unfoldings.

    Args:
        tensor: shape `(taps, in, out)`.

    Returns:
        Two float64 arrays, largest first: shapes `(min(in, taps*out),)` and
        `(min(out, taps*in),)`. Values below 1e-7 of the largest, 3e-4 with more than
        1024 channels, are rounding noise.

    Raises:
        ValueError: the tensor has no three axes, is empty, or is not finite.

    Example:
        >>> of_inputs, of_outputs = multi_mode_spectra(np.ones((9, 4, 6)))
        >>> of_inputs.shape, of_outputs.shape
        ((4,), (6,))
    """
    cube = _check_tensor(tensor, exact_to=_SPECTRA_EXACT_TO)
    n_in, taps, n_out = cube.shape
    return (
        gram_spectrum(row_gram(_rows(cube)))[: taps * n_out],
        gram_spectrum(column_gram(_columns(cube)))[: taps * n_in],
    )


def _improved(gram: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis that keeps more of the energy `trace(basis' gram basis)`.

    One step of subspace iteration with a Chebyshev filter of degree 2 (Saad 2011,
    Numerical methods for large eigenvalue problems, section 5.3) that damps the
    eigenvalues from zero to a cut below the wanted ones. From the basis of the last
    sweep it comes as close as an eigendecomposition does, in half the time.

    Args:
        gram: shape `(n, n)`, lower triangle.
        basis: shape `(n, r)` with `r < n`.
    """
    size, rank = basis.shape
    if size <= _EXACT_TO:
        return leading_eigenvectors(gram, rank)
    image = gram_product(gram, basis)
    kept = np.einsum("ij,ij->j", basis, image)
    energy = kept.sum()
    # Of the wanted eigenvalues the smallest is about `kept.min()`; of the others the
    # mean is known, because the trace is. The cut goes between.
    unwanted = max((np.trace(gram) - energy) / (size - rank), 0.0)
    # (A Python float: one of NumPy's would turn the float32 arrays into float64.)
    cut = float(0.5 * (kept.min() + unwanted))
    root = math.sqrt(0.125)
    image -= (0.5 + root) * cut * basis
    image = gram_product(gram, image) - (0.5 - root) * cut * image
    better, _ = scipy.linalg.qr(
        image, mode="economic", overwrite_a=True, check_finite=False
    )
    better = np.ascontiguousarray(better)
    if np.einsum("ij,ij->", better, gram_product(gram, better)) < energy:
        # The cut can lie wrong where the basis is far from the eigenvectors.
        return leading_eigenvectors(gram, rank)
    return better


def tucker2(
    tensor: np.ndarray, ranks: tuple[int, int], *, sweeps: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tucker decomposition of the modes 1 and 2 of a kernel `(taps, in, out)`.

    Starts from the sequentially truncated HOSVD (Vannieuwenhoven et al. 2012), which
    is closer than the HOSVD and cheaper, and goes on by higher-order orthogonal
    iteration (De Lathauwer et al. 2000) on channels × channels Gram matrices: no step
    costs more than O(n³) in the channels. At half the channels one sweep comes within
    0.4 % of where TensorLy's defaults stop on white noise, the hardest case, and within
    0.2 % on trained kernels.

    Up to 64 channels it works in float64; with more in float32, unless so little is
    lost that rounding would show.

    Args:
        tensor: shape `(taps, in, out)`; for a k×k convolution `taps = k*k`.
        ranks: `(rank_in, rank_out)`, at most `(in, out)`.
        sweeps: HOOI sweeps after the start.

    Returns:
        `(core, u_in, u_out)` with shapes `(taps, rank_in, rank_out)`,
        `(in, rank_in)`, `(out, rank_out)`; both `u` have orthonormal columns.

    Raises:
        ValueError: a rank is out of range, or the tensor is not finite.

    Example:
        >>> core, u_in, u_out = tucker2(np.ones((9, 4, 6)), (2, 3))
        >>> core.shape
        (9, 2, 3)
    """
    cube = _check_tensor(tensor, exact_to=_EXACT_TO)
    n_in, taps, n_out = cube.shape
    rank_in, rank_out = ranks
    if not (1 <= rank_in <= n_in and 1 <= rank_out <= n_out):
        raise ValueError(
            f"ranks must lie in [1, {n_in}] x [1, {n_out}]. Received: ranks={ranks}"
        )
    # A mode is saturated where it holds whatever the other one lets through: the
    # other's own eigenvectors are then the best there is, and the start, led by the
    # other mode, is the end. Sweeps would follow null vectors.
    out_saturated = rank_out >= min(n_out, taps * rank_in)
    in_saturated = rank_in >= min(n_in, taps * rank_out)
    if in_saturated and not out_saturated:
        core, u_out, u_in = tucker2(np.swapaxes(tensor, 1, 2), ranks[::-1])
        return np.ascontiguousarray(core.transpose(0, 2, 1)), u_in, u_out
    if out_saturated:
        sweeps = 0
    parts, lost = _iterated(cube, ranks, sweeps)
    if cube.dtype == np.float32 and lost < _FLOAT32_LOSS:
        cube = _check_tensor(tensor, exact_to=max(n_in, n_out))
        parts, _ = _iterated(cube, ranks, sweeps)
    return parts


def _iterated(
    cube: np.ndarray, ranks: tuple[int, int], sweeps: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Start and sweeps of `tucker2`, and the share of the energy that is lost."""
    n_in, taps, n_out = cube.shape
    rows, columns = _rows(cube), _columns(cube)
    gram = row_gram(rows)
    total = np.trace(gram)
    u_in = leading_eigenvectors(gram, ranks[0])
    narrow = product(u_in.T, rows).reshape(-1, n_out)
    u_out = leading_eigenvectors(column_gram(narrow), ranks[1])
    for _ in range(sweeps):
        u_in = _improved(row_gram(product(columns, u_out).reshape(n_in, -1)), u_in)
        narrow = product(u_in.T, rows).reshape(-1, n_out)
        u_out = _improved(column_gram(narrow), u_out)
    core = product(narrow, u_out)
    lost = 1.0 - float(np.sum(np.square(core)) / total) if total > 0.0 else 0.0
    core = core.reshape(ranks[0], taps, ranks[1]).transpose(1, 0, 2)
    return (np.ascontiguousarray(core), u_in, u_out), lost


def tucker2_to_tensor(
    core: np.ndarray, u_in: np.ndarray, u_out: np.ndarray
) -> np.ndarray:
    """The tensor a Tucker-2 decomposition stands for.

    Args:
        core: shape `(taps, rank_in, rank_out)`.
        u_in: shape `(in, rank_in)`.
        u_out: shape `(out, rank_out)`.

    Returns:
        Array of shape `(taps, in, out)`.

    Example:
        >>> core, u_in, u_out = tucker2(np.ones((9, 4, 6)), (1, 1))
        >>> np.allclose(tucker2_to_tensor(core, u_in, u_out), 1.0)
        True
    """
    return np.matmul(u_in, core) @ u_out.T
