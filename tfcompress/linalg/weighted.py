"""Decompositions that lose least of a layer's outputs, given moments of its inputs.

Without moments (None) every function is the plain one: best in the Frobenius norm.
Errors are relative and squared: what is lost of the output's energy, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from tfcompress.linalg.moments import Moments
from tfcompress.linalg.svd import balanced_factors, singular_values, truncated_svd
from tfcompress.linalg.tucker import tucker2


def _tails(energies: np.ndarray, ranks: Sequence[int], total: float) -> np.ndarray:
    """Shares of the energy beyond each rank."""
    if total <= 0.0:
        return np.zeros(len(ranks))
    kept = np.concatenate([[0.0], np.cumsum(energies)])
    last = len(kept) - 1
    lost = [1.0 - kept[min(rank, last)] / total for rank in ranks]
    return np.clip(lost, 0.0, 1.0)


def rebalanced(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`left @ right` with columns and rows of equal norm, pair by pair.

    Args:
        left: shape `(m, r)`.
        right: shape `(r, n)`.

    Returns:
        Two matrices of the same shapes and the same product.

    Example:
        >>> rebalanced(np.array([[4.0]]), np.array([[1.0]]))
        (array([[2.]]), array([[2.]]))
    """
    a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    usable = (a > 0.0) & (b > 0.0)
    scale = np.sqrt(np.divide(b, a, out=np.ones_like(a), where=usable))
    scale[~usable] = 1.0
    return left * scale, right / scale[:, None]


def weighted_svd(
    matrix: np.ndarray, rank: int, moments: Moments | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Balanced factors of the rank-`rank` matrix that loses least of the outputs.

    The truncated SVD of `L' @ matrix` with `L L' = E[x x']`, mapped back: the optimum
    by Eckart and Young.

    Args:
        matrix: shape `(m, n)`; rows belong to inputs.
        rank: from 1 to `min(m, n)`.
        moments: of the inputs; None is the plain SVD.

    Returns:
        Two matrices of shapes `(m, rank)` and `(rank, n)`.

    Raises:
        ValueError: the rank is out of range, the matrix is not finite, or the moments
            are of another kernel.

    Example:
        >>> left, right = weighted_svd(np.eye(3), 2)
        >>> left.shape, right.shape
        ((3, 2), (2, 3))
    """
    if moments is None:
        return balanced_factors(*truncated_svd(matrix, rank))
    u, s, vt = truncated_svd(moments.whiten(matrix), rank)
    return rebalanced(moments.unwhiten(u * s), vt)


def weighted_svd_errors(
    matrix: np.ndarray, ranks: Sequence[int], moments: Moments | None = None
) -> np.ndarray:
    """Relative squared output errors of `weighted_svd` at several ranks.

    Args:
        matrix: shape `(m, n)`.
        ranks: any numbers of ranks.
        moments: as there.

    Returns:
        Array of shape `(len(ranks),)`.

    Example:
        >>> weighted_svd_errors(np.diag([3.0, 1.0]), [1, 2])
        array([0.1, 0. ])
    """
    white = matrix if moments is None else moments.whiten(matrix)
    energies = np.square(singular_values(white))
    return _tails(energies, ranks, float(energies.sum()))


def _channel_basis(tensor: np.ndarray, moments: Moments) -> tuple[np.ndarray, Moments]:
    """Whitened tensor and the channel moments it was whitened with."""
    taps, n_in, _ = tensor.shape
    if moments.size not in (n_in, taps * n_in):
        raise ValueError(
            "The moments do not belong to this kernel. Received: moments of "
            f"{moments.size} inputs, a kernel of {taps} taps of {n_in} channels"
        )
    channels = moments.channels(n_in)
    return np.matmul(channels.root.T, np.asarray(tensor, np.float64)), channels


def _projected_metric(moments: Moments, basis: np.ndarray) -> np.ndarray:
    """The metric of patches projected by `basis` `(in, r)`: `(taps * r, taps * r)`."""
    n_in, rank = basis.shape
    taps = moments.size // n_in
    cube = moments.metric.reshape(taps, n_in, taps, n_in)
    cube = np.tensordot(np.tensordot(cube, basis, axes=(3, 0)), basis, axes=(1, 0))
    return np.moveaxis(cube, 3, 1).reshape(taps * rank, taps * rank)


def _fit(
    moments: Moments, basis: np.ndarray, tensor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Regression of a layer's outputs on its inputs projected by `basis`.

    Args:
        moments: of whole patches.
        basis: shape `(in, r)`.
        tensor: shape `(taps, in, out)`.

    Returns:
        `(root, coefficients)`: lower triangular `(taps * r, taps * r)` and, in the
        whitened coordinates of the projected inputs, `(taps * r, out)`.
    """
    taps, n_in, n_out = tensor.shape
    rank = basis.shape[1]
    wide = (moments.metric @ tensor.reshape(-1, n_out)).reshape(taps, n_in, n_out)
    projected = np.matmul(basis.T, wide).reshape(taps * rank, n_out)
    gram = _projected_metric(moments, basis)
    root = scipy.linalg.cholesky(gram, lower=True, check_finite=False)
    return root, scipy.linalg.solve_triangular(
        root, projected, lower=True, check_finite=False
    )


def weighted_tucker2(
    tensor: np.ndarray,
    ranks: tuple[int, int],
    moments: Moments | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tucker-2 that loses least of a convolution's outputs.

    The input basis comes from HOOI on the tensor whitened by the moments of its
    channels; core and output basis are then the reduced-rank regression of the outputs
    on the projected patches (Izenman 1975): exactly optimal for that basis. With
    moments of channels alone HOOI on the whitened tensor is the whole answer.

    Args:
        tensor: shape `(taps, in, out)`.
        ranks: `(rank_in, rank_out)`, at most `(in, out)`.
        moments: of patches `(taps * in)` or of channels; None is plain `tucker2`.

    Returns:
        `(core, u_in, u_out)` with shapes `(taps, rank_in, rank_out)`,
        `(in, rank_in)`, `(out, rank_out)`. `u_in` has orthonormal columns only without
        moments.

    Raises:
        ValueError: a rank is out of range, or the moments are of another kernel.

    Example:
        >>> core, u_in, u_out = weighted_tucker2(np.ones((9, 4, 6)), (2, 3))
        >>> core.shape, u_in.shape, u_out.shape
        ((9, 2, 3), (4, 2), (6, 3))
    """
    if moments is None:
        return tucker2(tensor, ranks)
    taps, n_in, _ = tensor.shape
    white, channels = _channel_basis(tensor, moments)
    core, u_in, u_out = tucker2(white, ranks)
    basis = channels.unwhiten(u_in)
    if moments.size == n_in:
        return core, basis, u_out
    root, coefficients = _fit(moments, basis, np.asarray(tensor, np.float64))
    rank_out = min(ranks[1], *coefficients.shape)
    u, s, vt = truncated_svd(coefficients, rank_out)
    core = scipy.linalg.solve_triangular(
        root, u * s, lower=True, trans="T", check_finite=False
    )
    if rank_out < ranks[1]:
        # More outputs than the projected patches have directions: they stay empty.
        surplus = ((0, 0), (0, ranks[1] - rank_out))
        core, vt = np.pad(core, surplus), np.pad(vt, surplus[::-1])
    return core.reshape(taps, ranks[0], ranks[1]), basis, np.ascontiguousarray(vt.T)


def weighted_tucker2_errors(
    tensor: np.ndarray,
    candidates: Sequence[tuple[int, int]],
    moments: Moments | None = None,
) -> np.ndarray:
    """Relative squared output errors of Tucker-2 at many pairs of ranks at once.

    Of the truncated HOSVD without HOOI sweeps: with moments of channels no less than
    what `weighted_tucker2` reaches, with those of patches above or below it, for the
    sweeps do not see how taps are correlated. One Cholesky factorization of the
    rotated patch moments serves all input ranks: its leading blocks are those of the
    smaller ones.

    Args:
        tensor: shape `(taps, in, out)`.
        candidates: pairs of ranks.
        moments: as in `weighted_tucker2`.

    Returns:
        Array of shape `(len(candidates),)`.

    Raises:
        ValueError: the moments are of another kernel.

    Example:
        >>> errors = weighted_tucker2_errors(np.ones((9, 4, 6)), [(1, 1), (4, 6)])
        >>> np.allclose(errors, 0.0)
        True
    """
    taps, n_in, n_out = tensor.shape
    tensor = np.asarray(tensor, np.float64)
    white, channels = (
        (tensor, None) if moments is None else _channel_basis(tensor, moments)
    )
    unfolded = np.moveaxis(white, 1, 0).reshape(n_in, -1)
    _, u_in = scipy.linalg.eigh(unfolded @ unfolded.T, check_finite=False)
    u_in = np.ascontiguousarray(u_in[:, ::-1])
    rotated = np.matmul(u_in.T, white)  # (taps, in, out) in the sorted basis
    if moments is not None and moments.size != n_in:
        # Channel-major order makes smaller input ranks leading blocks.
        turned = _projected_metric(moments, channels.unwhiten(u_in))
        order = np.arange(taps * n_in).reshape(taps, n_in).T.ravel()
        root = scipy.linalg.cholesky(
            turned[np.ix_(order, order)], lower=True, check_finite=False
        )
        rows = rotated.reshape(-1, n_out)[order]
        spread = (root.T @ rows).reshape(n_in, taps, n_out)
    else:
        spread = np.moveaxis(rotated, 0, 1)
    total = float(np.sum(np.square(spread)))
    by_input: dict[int, list[int]] = {}
    for index, (rank_in, _) in enumerate(candidates):
        by_input.setdefault(min(rank_in, n_in), []).append(index)
    errors = np.empty(len(candidates))
    gram, done = np.zeros((n_out, n_out)), 0
    for rank_in in sorted(by_input):
        rows = spread[done:rank_in].reshape(-1, n_out)
        gram, done = gram + rows.T @ rows, rank_in
        values = scipy.linalg.eigvalsh(gram, check_finite=False)[::-1]
        wanted = [candidates[index][1] for index in by_input[rank_in]]
        errors[by_input[rank_in]] = _tails(np.maximum(values, 0.0), wanted, total)
    return errors
