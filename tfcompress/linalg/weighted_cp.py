"""CP that loses least of a layer's outputs, given moments of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfcompress.linalg.cp import (
    CP,
    DEGENERACY_LIMIT,
    balanced_terms,
    cp,
    cp_to_tensor,
    is_swept,
    slice_energies,
)
from tfcompress.linalg.cp_sweeps import Terms, limited_solution
from tfcompress.linalg.moments import Moments

# `weighted_cp_errors` decomposes at no more ranks than this, none above the second
# number, and ends the sweeps early: late enough to see terms that degenerate.
_PROBES = 6
_LARGEST_PROBE = 256
_PROBE_SWEEPS = 20


def weighted_cp(
    tensor: np.ndarray,
    rank: int,
    moments: Moments | None = None,
    *,
    start: Terms | None = None,
    max_sweeps: int = 200,
) -> CP:
    """CP that loses least of a convolution's outputs.

    The CP of the tensor whitened by the moments of its channels, mapped back
    (ALS-Sigma, Kalle et al. 2025). With moments of patches the last factor is then the
    regression of the outputs on what the first two let through: optimal for these.

    Args:
        tensor: shape `(taps, in, out)`.
        rank: number of terms.
        moments: of patches `(taps * in)` or of channels; None is plain `cp`.
        start, max_sweeps: as in `cp`.

    Returns:
        `CP`; its error is that of the outputs, and so is the energy of its terms.

    Raises:
        ValueError: the rank is out of range, the tensor is not finite, or the moments
            are of another kernel.

    Example:
        >>> weighted_cp(np.ones((9, 4, 6)), 2).c.shape
        (6, 2)
    """
    if moments is None:
        return cp(tensor, rank, start=start, max_sweeps=max_sweeps)
    taps, n_in, n_out = tensor.shape
    matrix = np.asarray(tensor, np.float64).reshape(taps * n_in, n_out)
    channels = moments.channels(n_in)
    if start is not None:
        start = (start[0], channels.whiten(start[1]), start[2])
    white = channels.whiten(matrix).reshape(tensor.shape)
    found = cp(white, rank, start=start, max_sweeps=max_sweeps)
    a, b, c = found.a, channels.unwhiten(found.b), found.c
    if moments.size > n_in and is_swept(tensor.shape, rank):
        c = _regressed(a, b, matrix, moments)
    total = moments.output_energy(matrix)
    lost = matrix - cp_to_tensor(a, b, c).reshape(matrix.shape)
    error = np.sqrt(moments.output_energy(lost) / total) if total > 0.0 else 0.0
    return CP(*balanced_terms(a, b, c), min(float(error), 1.0), found.degenerate)


def _regressed(
    a: np.ndarray, b: np.ndarray, matrix: np.ndarray, moments: Moments
) -> np.ndarray:
    """The best last factor, its terms within the limit."""
    pairs = moments.whiten((a[:, None, :] * b).reshape(len(matrix), -1))
    norms = np.linalg.norm(pairs, axis=0)
    norms[norms == 0.0] = 1.0
    pairs /= norms
    wanted = moments.whiten(matrix)
    energy = DEGENERACY_LIMIT * float(np.sum(np.square(wanted)))
    return limited_solution(pairs.T @ pairs, wanted.T @ pairs, energy=energy) / norms


def weighted_cp_errors(
    tensor: np.ndarray, ranks: Sequence[int], moments: Moments | None = None
) -> np.ndarray:
    """Relative squared output errors of CP at many ranks at once, estimated.

    Measured at a few of the ranks, by short runs. In between, the share of the upper
    bound `slice_energies` that is left there is interpolated; beyond the last one it is
    held, so that errors of large ranks are overestimated.

    Args:
        tensor: shape `(taps, in, out)`.
        ranks: any numbers of ranks, at most `cp_max_rank(tensor.shape)`.
        moments: as in `weighted_cp`.

    Returns:
        Array of shape `(len(ranks),)`; 1 where the nearest of the measured ranks
        degenerates: such a rank is not worth taking.

    Example:
        >>> weighted_cp_errors(np.ones((9, 4, 6)), [1, 2]).round(3)
        array([0., 0.])
    """
    ranks = np.asarray(ranks)
    taps, n_in, n_out = tensor.shape
    white = np.asarray(tensor, np.float64)
    if moments is not None:
        channels = moments.channels(n_in)
        white = channels.whiten(white.reshape(-1, n_out)).reshape(tensor.shape)
    energies = slice_energies(white)
    total = float(energies.sum())
    if total <= 0.0:
        return np.zeros(len(ranks))
    beyond = np.append(np.cumsum(energies[::-1])[::-1], 0.0) / total
    bounds = beyond[np.minimum(ranks, len(energies))]
    probes = _probes(tensor.shape, ranks)
    if not probes:
        return np.clip(bounds, 0.0, 1.0)
    found = [
        weighted_cp(tensor, rank, moments, max_sweeps=_PROBE_SWEEPS) for rank in probes
    ]
    shares = [
        min(result.error**2 / max(beyond[rank], 1e-12), 1.0)
        for rank, result in zip(probes, found, strict=True)
    ]
    errors = bounds * np.interp(np.log(ranks), np.log(probes), shares)
    swept = np.array([is_swept(tensor.shape, int(rank)) for rank in ranks])
    errors[~swept] = bounds[~swept]
    distances = np.abs(np.log(ranks)[:, None] - np.log(probes))
    degenerate = np.array([result.degenerate for result in found])
    errors[degenerate[np.argmin(distances, axis=1)]] = 1.0
    return np.clip(errors, 0.0, 1.0)


def _probes(shape: tuple[int, int, int], ranks: np.ndarray) -> list[int]:
    """A few of the ranks that are swept, evenly spaced in their logarithm."""
    swept = sorted({int(r) for r in ranks if is_swept(shape, r)})
    swept = [r for r in swept if r <= _LARGEST_PROBE] or swept[:1]
    if len(swept) <= _PROBES:
        return swept
    wanted = np.geomspace(swept[0], swept[-1], _PROBES)
    return sorted({min(swept, key=lambda r: abs(np.log(r / w))) for w in wanted})
