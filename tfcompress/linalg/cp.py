"""CP: a kernel as a sum of rank-one terms, by alternating least squares.

Run to convergence on trained kernels, least squares often degenerates: terms grow and
cancel each other. Three things hold against it. The sweeps end where they buy little;
the error-preserving correction finds the smallest terms of the same error; and where
these are still too large, the best terms within a limit are found. Both problems are
posed in Phan et al. 2019, "Error preserving correction: a method for CP decomposition
at a target error bound" (`cp_anc`, `cp_boundlda_als` in the authors' TensorBox); for
kernels in Phan et al. 2020, "Stable low-rank tensor decomposition for compression of
convolutional neural network".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from tfcompress.linalg.cp_sweeps import Sweeps, Terms, energy_of
from tfcompress.linalg.tucker import tucker2

# Terms may hold this many times the energy of the tensor. Noise of relative size s on
# the factors makes an error of s * sqrt(3 * energy) in their sum: here 5.5 s, so that
# int8 factors still cost little. Trained kernels have 0.6, 1.9 and 6 (medians) at ranks
# that leave 10, 30 and 60 % of their weights.
DEGENERACY_LIMIT = 10.0

# Noise on the start, relative to each column.
_NOISE = 0.2


class CP(NamedTuple):
    """A sum of rank-one terms: `tensor[s, i, o] ~ sum_r a[s, r] b[i, r] c[o, r]`.

    Attributes:
        a: shape `(taps, rank)`.
        b: shape `(in, rank)`.
        c: shape `(out, rank)`.
        error: norm of what is lost over the norm of the tensor, in [0, 1].
        degenerate: larger terms, cancelling each other, would lose half as much or
            less: at this rank there may be no best approximation.

    Example:
        >>> found = cp(np.ones((9, 4, 6)), 1)
        >>> found.a.shape, found.b.shape, found.c.shape, round(found.error, 3)
        ((9, 1), (4, 1), (6, 1), 0.0)
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    error: float
    degenerate: bool

    @property
    def terms(self) -> Terms:
        """The three factors."""
        return self.a, self.b, self.c


def cp_to_tensor(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The tensor a CP decomposition stands for.

    Args:
        a: shape `(taps, rank)`.
        b: shape `(in, rank)`.
        c: shape `(out, rank)`.

    Returns:
        Array of shape `(taps, in, out)`.

    Example:
        >>> cp_to_tensor(np.ones((9, 2)), np.ones((4, 2)), np.ones((6, 2))).shape
        (9, 4, 6)
    """
    return np.matmul(a[:, None, :] * b, c.T)


def cp_max_rank(shape: tuple[int, int, int]) -> int:
    """Number of terms that is enough for every tensor of a shape.

    Args:
        shape: `(taps, in, out)`.

    Example:
        >>> cp_max_rank((9, 64, 128))
        576
    """
    shortest, second, _ = sorted(shape)
    return shortest * second


def degeneracy(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, tensor: np.ndarray
) -> float:
    """Energy of all rank-one terms over that of the tensor they add up to.

    At most 1 for orthogonal terms; large where terms cancel.

    Args:
        a, b, c: factors, as in `CP`.
        tensor: shape `(taps, in, out)`.

    Example:
        >>> one = np.ones((2, 1))
        >>> degeneracy(one, one, one, np.ones((2, 2, 2)))
        1.0
    """
    total = float(np.sum(np.square(tensor, dtype=np.float64)))
    return energy_of((a, b, c)) / total if total > 0.0 else 0.0


def cp(
    tensor: np.ndarray,
    rank: int,
    *,
    start: Terms | None = None,
    seed: int = 0,
    max_sweeps: int = 200,
    tolerance: float = 2e-4,
    limit: float = DEGENERACY_LIMIT,
) -> CP:
    """CP decomposition of a kernel `(taps, in, out)` into stable terms.

    Alternating least squares in Gram form with line search, then the error-preserving
    correction. The sweeps start at the leading singular triplets of the slices along
    the shortest mode, turned to its principal axes: on trained kernels as good as the
    best of several random starts. Wide channel modes are first cut to `rank`
    directions (Bro and Andersson 1998); the sweeps end on the whole tensor.

    Where the factors are no smaller than the tensor, sweeps have nothing to gain: the
    triplets, orthogonal terms, are the result. Their error is larger than that of the
    last ranks that are swept, and falls to zero at `cp_max_rank`.

    Args:
        tensor: shape `(taps, in, out)`.
        rank: number of terms, from 1 to `cp_max_rank(tensor.shape)`.
        start: factors of that rank to start from instead.
        seed: of the noise on the start, which may be a saddle point.
        max_sweeps: no more sweeps than this.
        tolerance: ends the sweeps where one lowers the error by less than this share.
            A longer run lowers the error of trained kernels by another 1 to 2 % while
            the energy of the terms doubles and more.
        limit: on the energy of the terms, in that of the tensor.

    Returns:
        `CP`, its terms within the limit. Each has the same root mean square in all
        three factors: so it suffers least from noise on them, in the measure of
        sensitivity of Phan et al. 2020.

    Raises:
        ValueError: the rank is out of range, or the tensor is not finite.

    Example:
        >>> cp(np.ones((9, 4, 6)), 2).b.shape
        (4, 2)
    """
    tensor = _check(tensor, rank)
    total = float(np.sum(np.square(tensor)))
    if total == 0.0 or not is_swept(tensor.shape, rank):
        terms, degenerate = _slices(tensor, rank), False
    else:
        options = {"max_sweeps": max_sweeps, "tolerance": tolerance, "limit": limit}
        if start is None:
            start = _start(tensor, rank, seed, options)
        terms, degenerate = Sweeps(tensor).fit(start, **options)
    error = 0.0
    if total > 0.0:
        lost = float(np.sum(np.square(tensor - cp_to_tensor(*terms))))
        error = min(float(np.sqrt(lost / total)), 1.0)
    return CP(*balanced_terms(*terms), error, degenerate)


def is_swept(shape: tuple[int, int, int], rank: int) -> bool:
    """Whether factors of that rank are smaller than the tensor, so worth sweeps."""
    return rank * sum(shape) < int(np.prod(shape))


def slice_energies(tensor: np.ndarray) -> np.ndarray:
    """Energies of the terms that `cp` starts from, largest first.

    What lies beyond a rank is an upper bound of the error there.

    Args:
        tensor: shape `(taps, in, out)`.

    Returns:
        Array of shape `(cp_max_rank(tensor.shape),)`.
    """
    slices, _ = _turned(np.asarray(tensor, np.float64))
    energies = np.square(np.linalg.svd(slices, compute_uv=False))
    return np.sort(energies, axis=None)[::-1]


def balanced_terms(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Terms:
    """The same terms, each with one root mean square in all three factors."""
    sizes = [np.linalg.norm(x, axis=0) / np.sqrt(len(x)) for x in (a, b, c)]
    mean = np.cbrt(sizes[0] * sizes[1] * sizes[2])
    a, b, c = (
        x * np.divide(mean, size, out=np.zeros_like(size), where=size > 0.0)
        for x, size in zip((a, b, c), sizes, strict=True)
    )
    return a, b, c


def _check(tensor: np.ndarray, rank: int) -> np.ndarray:
    tensor = np.asarray(tensor, np.float64)
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
    most = cp_max_rank(tensor.shape)
    if not 1 <= rank <= most:
        raise ValueError(f"rank must lie in [1, {most}]. Received: rank={rank}")
    return tensor


def _start(tensor: np.ndarray, rank: int, seed: int, options: dict[str, Any]) -> Terms:
    _, n_in, n_out = tensor.shape
    ranks = min(rank, n_in), min(rank, n_out)
    if 4 * ranks[0] * ranks[1] > n_in * n_out:
        return _perturbed(_slices(tensor, rank), seed)
    core, q_in, q_out = (
        np.asarray(part, np.float64) for part in tucker2(tensor, ranks, sweeps=1)
    )
    outside = float(np.sum(np.square(tensor)) - np.sum(np.square(core)))
    first = _perturbed(_slices(core, rank), seed)
    (a, b, c), _ = Sweeps(core, max(outside, 0.0)).fit(first, **options)
    return a, q_in @ b, q_out @ c


def _perturbed(terms: Terms, seed: int) -> Terms:
    rng = np.random.default_rng(seed)
    a, b, c = (
        x + _NOISE * np.sqrt(np.mean(np.square(x), axis=0)) * rng.normal(size=x.shape)
        for x in terms
    )
    return a, b, c


def _turned(tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slices along the shortest mode, in its principal axes; and these axes."""
    slices = np.moveaxis(tensor, int(np.argmin(tensor.shape)), 0)
    rows = slices.reshape(len(slices), -1)
    _, axes = scipy.linalg.eigh(rows @ rows.T, check_finite=False)
    return np.tensordot(axes.T, slices, axes=1), axes


def _slices(tensor: np.ndarray, rank: int) -> Terms:
    """The terms of largest energy among the singular triplets of all slices."""
    slices, axes = _turned(tensor)
    u, s, vt = np.linalg.svd(slices, full_matrices=False)
    largest = np.argsort(-s, axis=None, kind="stable")[:rank]
    which, index = np.unravel_index(largest, s.shape)
    terms = [u[which, :, index].T, (s[which, index, None] * vt[which, index]).T]
    terms.insert(int(np.argmin(tensor.shape)), axes[:, which])
    a, b, c = terms
    return a, b, c
