"""Sweeps over the factors of a CP decomposition, and their correction."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.optimize

# (a, b, c) of shapes (taps, r), (in, r), (out, r).
Terms = tuple[np.ndarray, np.ndarray, np.ndarray]
Solver = Callable[[np.ndarray, np.ndarray], np.ndarray]

_CORRECTIONS = 30
# Errors below this share of the norm are rounding.
ROUNDING = 1e-7
# Terms this many times beyond the limit will not come back within it.
_HOPELESS = 10.0
# Terms degenerate where holding them within the limit raises the error by this much. In
# 250 random tensors it took a factor of 1.5 at most; in tensors of border rank 3 to 10.
_COSTLY = 2.0


def energy_of(terms: Terms) -> float:
    """Sum of the squared norms of rank-one terms."""
    squares = [np.sum(np.square(x, dtype=np.float64), axis=0) for x in terms]
    return float(np.sum(squares[0] * squares[1] * squares[2]))


def bounded_solution(
    gram: np.ndarray, right: np.ndarray, *, total: float, bound: float
) -> np.ndarray:
    """The smallest solution of a regression that keeps an error bound.

    A ridge regression whose ridge puts the error on the bound: one eigendecomposition
    and a root in one dimension.

    Args:
        gram: `z' z` of the regressors, shape `(r, r)`.
        right: `y' z` with the values to be met, shape `(n, r)`.
        total: squared norm of `y`.
        bound: on the squared norm of what is lost; where no solution keeps it, the
            one of least squares is returned.

    Returns:
        Coefficients of shape `(n, r)`.
    """

    def within(values: np.ndarray, weights: np.ndarray, ridge: float) -> float:
        explained = weights * (values + 2.0 * ridge) / np.square(values + ridge)
        return bound - (total - float(np.sum(explained)))

    return _ridge_solution(gram, right, within, largest=True)


def limited_solution(
    gram: np.ndarray, right: np.ndarray, *, energy: float
) -> np.ndarray:
    """The best solution of a regression that is not too large.

    Args:
        gram, right: as in `bounded_solution`.
        energy: limit on the squared norm of the coefficients.

    Returns:
        Coefficients of shape `(n, r)`.
    """

    def within(values: np.ndarray, weights: np.ndarray, ridge: float) -> float:
        return energy - float(np.sum(weights / np.square(values + ridge)))

    return _ridge_solution(gram, right, within, largest=False)


def _ridge_solution(
    gram: np.ndarray,
    right: np.ndarray,
    within: Callable[[np.ndarray, np.ndarray, float], float],
    *,
    largest: bool,
) -> np.ndarray:
    """Ridge regression with the largest or smallest ridge for which `within >= 0`."""
    values, turn = scipy.linalg.eigh(gram, check_finite=False)
    if values[-1] <= 0.0:
        return np.zeros_like(right)
    values = np.maximum(values, 0.0)
    turned = right @ turn
    weights = np.sum(np.square(turned), axis=0)
    ends = np.log(values[-1]) + np.log([1e-13, 1e6])

    def room(log_ridge: float) -> float:
        return within(values, weights, np.exp(log_ridge))

    signs = [room(end) >= 0.0 for end in ends]
    if signs[0] != signs[1]:
        found = scipy.optimize.brentq(room, *ends, xtol=1e-6)
    else:
        # All of them or none: the end that is wanted, or the nearest to being within.
        found = ends[1] if signs[0] == largest else ends[0]
    return (turned / (values + np.exp(found))) @ turn.T


def _least_squares(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    # The ridge is rounding for all but exactly collinear columns.
    ridge = 1e-12 * max(float(np.trace(gram)) / len(gram), 1e-30)
    root = scipy.linalg.cho_factor(gram + ridge * np.eye(len(gram)), check_finite=False)
    return scipy.linalg.cho_solve(root, right.T, check_finite=False).T


def _unit(factor: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(factor, axis=0)
    return factor / np.where(norms > 0.0, norms, 1.0)


class Sweeps:
    """Alternating regressions on one tensor.

    Args:
        tensor: float64 of shape `(taps, in, out)`.
        outside: energy of a larger tensor that this is the core of, beyond the core:
            it counts in the error, so in what a sweep is worth.
    """

    def __init__(self, tensor: np.ndarray, outside: float = 0.0) -> None:
        self._tensor = tensor
        self._energy = float(np.sum(np.square(tensor)))
        self._outside = outside

    @property
    def total(self) -> float:
        """Energy of the whole tensor."""
        return self._energy + self._outside

    def sweep(self, terms: Terms, solve: Solver) -> tuple[Terms, float]:
        """Solves for each factor once, with the norms of all terms in it.

        Args:
            terms: `(a, b, c)`; `a` is not read.
            solve: of normal equations, from `(gram, right)` to coefficients.

        Returns:
            Terms with the norms in `c`, and the energy lost.
        """
        _, b, c = terms
        b, c = _unit(b), _unit(c)
        # The one large product serves both a and b; no Khatri-Rao product is formed.
        inner = self._tensor @ c
        a = solve((b.T @ b) * (c.T @ c), np.einsum("sir,ir->sr", inner, b))
        a = _unit(a)
        b = solve((a.T @ a) * (c.T @ c), np.einsum("sir,sr->ir", inner, a))
        b = _unit(b)
        c, lost = self.outputs(a, b, solve)
        return (a, b, c), lost

    def outputs(
        self, a: np.ndarray, b: np.ndarray, solve: Solver
    ) -> tuple[np.ndarray, float]:
        """`c` for given `a` and `b`, and the energy lost."""
        taps, n_in, n_out = self._tensor.shape
        pairs = (a[:, None, :] * b).reshape(taps * n_in, -1)
        right = self._tensor.reshape(-1, n_out).T @ pairs
        gram = (a.T @ a) * (b.T @ b)
        c = solve(gram, right)
        explained = 2.0 * np.sum(right * c) - np.sum(gram * (c.T @ c))
        return c, max(self._energy - float(explained), 0.0)

    def fit(
        self, terms: Terms, *, max_sweeps: int, tolerance: float, limit: float
    ) -> tuple[Terms, bool]:
        """Least squares, then the correction.

        Args:
            terms: where to start.
            max_sweeps: no more sweeps than this.
            tolerance: ends them where the relative error falls by less than this share.
            limit: on the energy of the terms, in that of the whole tensor.

        Returns:
            Terms within the limit, and whether they degenerate: without the limit
            their error would be half as large or less.
        """
        lost, previous, stable = np.inf, terms, terms
        for sweep in range(max_sweeps):
            before = lost
            terms, lost = self.sweep(terms, _least_squares)
            energy = energy_of(terms) / self.total
            if energy <= limit:
                stable = terms
            if energy > _HOPELESS * limit or self._is_done(before, lost, tolerance):
                break
            found = terms
            if sweep > 2:
                terms, lost = self._ahead(terms, lost, previous, np.cbrt(sweep) - 1.0)
            previous = found
        if energy <= _HOPELESS * limit:
            terms = self.corrected(terms, lost)
            if energy_of(terms) <= limit * self.total:
                return terms, False
        held, more = self._limited(stable, limit, max_sweeps, tolerance)
        return held, more + self._outside > _COSTLY**2 * (lost + self._outside)

    def _is_done(self, before: float, lost: float, tolerance: float) -> bool:
        # Twice the tolerance, for these are squares.
        worth = before - lost >= 2.0 * tolerance * (lost + self._outside)
        return not worth or lost <= ROUNDING**2 * self.total

    def _limited(
        self, terms: Terms, limit: float, max_sweeps: int, tolerance: float
    ) -> tuple[Terms, float]:
        """The best terms within the limit, and the energy lost."""
        solve = functools.partial(limited_solution, energy=limit * self.total)
        lost = np.inf
        for _ in range(max_sweeps):
            before = lost
            terms, lost = self.sweep(terms, solve)
            if self._is_done(before, lost, tolerance):
                break
        return self.corrected(terms, lost), lost

    def _ahead(
        self, terms: Terms, lost: float, previous: Terms, step: float
    ) -> tuple[Terms, float]:
        """Terms further along the way of the last sweep, if they lose less there.

        The step grows with the cube root of the sweeps (Bro 1998).
        """
        a, b = (
            now + step * (now - _unit(then))
            for now, then in zip(terms[:2], previous[:2], strict=True)
        )
        a, b = _unit(a), _unit(b)
        c, reached = self.outputs(a, b, _least_squares)
        return ((a, b, c), reached) if reached < lost else (terms, lost)

    def corrected(
        self, terms: Terms, bound: float, *, sweeps: int = _CORRECTIONS
    ) -> Terms:
        """Error-preserving correction: smaller terms within an error bound.

        Minimises `sum_r |a_r|^2 |b_r|^2 |c_r|^2` subject to the bound, one factor
        after the other (Phan et al. 2019).

        Args:
            terms: within the bound.
            bound: on the energy lost of this tensor.
            sweeps: no more sweeps than this; they end where the terms hardly shrink.
        """
        bound = max(bound, ROUNDING**2 * self.total)
        solve = functools.partial(bounded_solution, total=self._energy, bound=bound)
        energy = energy_of(terms)
        for _ in range(sweeps):
            terms, _ = self.sweep(terms, solve)
            before, energy = energy, energy_of(terms)
            if before - energy < 0.01 * before:
                break
        return terms
