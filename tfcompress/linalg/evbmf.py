"""Empirical variational Bayesian matrix factorization: a rank from the noise floor.

Nakajima, Sugiyama, Babacan, Tomioka: Global analytic solution of fully-observed
variational Bayesian matrix factorization, JMLR 14 (2013), theorem 2 and section 4.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from tfcompress.linalg.svd import check_matrix

# Where each smooth stretch of the free energy is looked at, and how many are refined.
_PLACES = np.array([0.02, 0.25, 0.5, 0.75, 0.98])
_REFINED = 5


def _tau(x: np.ndarray, alpha: float) -> np.ndarray:
    b = x - (1.0 + alpha)
    return 0.5 * (b + np.sqrt(np.maximum(b * b - 4.0 * alpha, 0.0)))


def _tau_bar(alpha: float) -> float:
    """Zero of the boundary equation; the constant is Nakajima's approximation."""
    return 2.5129 * np.sqrt(alpha)


def _free_energy(sigma2: float, length: int, width: int, squares: np.ndarray) -> float:
    """Negative log evidence up to constants (JMLR 2013, equation 33)."""
    alpha = length / width
    x_bar = (1.0 + _tau_bar(alpha)) * (1.0 + alpha / _tau_bar(alpha))
    x = squares / (width * sigma2)
    signal = x[x > x_bar]
    noise = x[x <= x_bar]
    tau = _tau(signal, alpha)
    value = np.sum(noise - np.log(noise))
    value += np.sum(signal - tau)
    value += np.sum(np.log((tau + 1.0) / signal))
    value += alpha * np.sum(np.log(tau / alpha + 1.0))
    value += (length - len(squares)) * np.log(sigma2)
    return float(value)


def _shape_of(values: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    length, width = min(shape), max(shape)
    if length < 1 or len(values) > length:
        raise ValueError(
            "shape must be that of the matrix the singular values come from. "
            f"Received: shape={shape}, {len(values)} values"
        )
    if not np.all(np.isfinite(values)):
        raise ValueError(
            "The singular values hold NaN or infinity: the weights they come from are "
            f"broken. Received: {np.count_nonzero(~np.isfinite(values))} such values"
        )
    return length, width


def evbmf_noise_variance(values: np.ndarray, shape: tuple[int, int]) -> float:
    """Noise variance that maximises the evidence of the factorization model.

    Args:
        values: singular values of the matrix, any order.
        shape: `(m, n)` of the matrix.

    Returns:
        Variance of one entry's noise; 0.0 for a matrix without noise (all zero, or
        of exactly low rank).

    Raises:
        ValueError: the values do not fit the shape, or are not finite.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (40, 30))
        >>> round(evbmf_noise_variance(singular_values(noise), noise.shape), 2)
        0.01
    """
    squares = np.sort(np.asarray(values, np.float64))[::-1] ** 2
    length, width = _shape_of(squares, shape)
    total = squares.sum()
    # Values that are numerically zero are not noise but absence of it.
    floor = squares[0] * np.finfo(np.float32).eps ** 2 if len(squares) else 0.0
    positive = squares[squares > floor]
    if total <= 0.0 or len(positive) == 0:
        return 0.0
    alpha = length / width
    x_bar = (1.0 + _tau_bar(alpha)) * (1.0 + alpha / _tau_bar(alpha))
    # Bounds of section 4: between the tail beyond the largest possible rank, taken
    # as noise, and everything taken as noise.
    start = min(max(int(np.ceil(length / (1.0 + alpha))) - 1, 0), len(squares) - 1)
    upper = total / (length * width)
    tail = squares[start:]
    lower = max(tail[0] / (width * x_bar), tail.mean() / width)
    if lower <= 0.0:
        lower = positive[-1] / (width * x_bar)
    if lower >= upper:
        # A flat spectrum: the interval is empty, all of it is noise.
        return float(upper)
    # The rest is exactly zero and enters through the log term alone. The free energy
    # jumps wherever a value passes the threshold and is smooth in between: every
    # stretch is looked at before the best ones are refined.
    low, high = np.log(lower), np.log(upper)
    jumps = np.log(positive / (width * x_bar))
    inner = np.sort(jumps[(jumps > low) & (jumps < high)])
    ends = np.unique(np.concatenate([[low], inner, [high]]))

    def free_energy(log_s: float) -> float:
        return _free_energy(np.exp(log_s), length, width, positive)

    places = ends[:-1, None] + np.diff(ends)[:, None] * _PLACES
    seen = np.array([[free_energy(x) for x in row] for row in places])
    found = [(seen.min(), places.ravel()[seen.argmin()])]
    for index in np.argsort(seen.min(axis=1))[:_REFINED]:
        result = scipy.optimize.minimize_scalar(
            free_energy,
            bounds=(ends[index], ends[index + 1]),
            method="bounded",
            options={"xatol": 1e-8},
        )
        found.append((result.fun, result.x))
    return float(np.exp(min(found)[1]))


def evbmf_rank(
    values: np.ndarray, shape: tuple[int, int], *, noise_variance: float | None = None
) -> int:
    """Number of singular values that stand above the noise: MUSCO's extreme rank.

    A singular value counts if it exceeds
    `sqrt(M * sigma2 * (1 + tau) * (1 + alpha / tau))` with `alpha = L/M`,
    `tau = 2.5129 * sqrt(alpha)`, `L <= M` the sides of the matrix.

    Args:
        values: singular values of the matrix.
        shape: `(m, n)` of the matrix.
        noise_variance: variance to use; estimated where None. On weights that were
            truncated before, pass the variance of the untouched weights: truncation
            removes the noise floor, and an estimate would call signal noise.

    Returns:
        The rank, from 0 to `min(m, n)`.

    Raises:
        ValueError: the values do not fit the shape, or are not finite.

    Example:
        >>> evbmf_rank(np.array([100.0, 1.0, 1.0, 1.0]), (4, 4))
        1
    """
    values = np.asarray(values, np.float64)
    length, width = _shape_of(values, shape)
    if noise_variance is None:
        noise_variance = evbmf_noise_variance(values, shape)
    alpha = length / width
    tau = _tau_bar(alpha)
    threshold = np.sqrt(width * noise_variance * (1.0 + tau) * (1.0 + alpha / tau))
    tiny = values.max(initial=0.0) * np.finfo(np.float32).eps
    return int(np.count_nonzero(values > max(threshold, tiny)))


def evbmf(
    matrix: np.ndarray, *, noise_variance: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Analytic EVBMF of a matrix.

    Args:
        matrix: shape `(m, n)`.
        noise_variance: variance of the entries' noise; estimated where None.

    Returns:
        `(u, s, vt, noise_variance)`: the kept singular vectors with shapes `(m, r)`
        and `(r, n)`, and the shrunken singular values (theorem 2), shape `(r,)`.

    Raises:
        ValueError: the array is no matrix, is empty, or holds NaN or infinity.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (40, 30))
        >>> u, s, vt, noise_variance = evbmf(np.ones((40, 30)) + noise)
        >>> len(s), round(noise_variance, 2)
        (1, 0.01)
    """
    matrix = check_matrix(matrix).astype(np.float64, copy=False)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    if noise_variance is None:
        noise_variance = evbmf_noise_variance(s, matrix.shape)
    rank = evbmf_rank(s, matrix.shape, noise_variance=noise_variance)
    length, width = min(matrix.shape), max(matrix.shape)
    kept = s[:rank]
    ratio = noise_variance / kept**2
    shrunk = 1.0 - (length + width) * ratio
    inner = np.maximum(shrunk**2 - 4.0 * length * width * ratio**2, 0.0)
    return (
        u[:, :rank],
        kept / 2.0 * (shrunk + np.sqrt(inner)),
        vt[:rank],
        noise_variance,
    )
