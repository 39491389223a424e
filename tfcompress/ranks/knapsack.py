"""Multiple-choice knapsack: one option for each layer, least value within the limits.

By Lagrangian relaxation (Sinha and Zoltners 1979): for prices of the limited resources
every layer takes its best option by itself; the prices are found by bisection. What
the last step leaves over is spent greedily. The limits are met, never overshot.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

# Halvings of the price interval: of one price, and of each of several.
_STEPS = 60
_STEPS_EACH = 24


def choose_options(
    values: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: np.ndarray
) -> list[int]:
    """Chooses one option for every item.

    Args:
        values: for each item the values of its options (what is lost; smaller is
            better), shape `(options,)`.
        costs: for each item the costs of its options, shape `(options, resources)`.
        limits: what all chosen options may cost together, shape `(resources,)`.

    Returns:
        For each item the index of its option. Where no choice is within the limits:
        the choice that exceeds them least.

    Example:
        >>> choose_options(
        ...     [np.array([0.0, 1.0]), np.array([0.0, 9.0])],
        ...     [np.array([[4.0], [1.0]]), np.array([[4.0], [1.0]])],
        ...     np.array([5.0]),
        ... )
        [1, 0]
    """
    if not len(values):
        return []
    limits = np.asarray(limits, np.float64)
    # In units of the limits; a limit of nothing counts every cost as too much.
    scale = np.where(limits > 0.0, limits, 1e-12)
    problem = _Problem(values, [np.asarray(c, np.float64) / scale for c in costs])
    cheapest = problem.cheapest()
    if not problem.feasible(cheapest):
        return cheapest
    chosen = problem.priced(np.zeros(len(limits)), len(limits) - 1)
    return problem.spend_the_rest(chosen if problem.feasible(chosen) else cheapest)


class _Problem:
    """Values and relative costs of all items, and what is done with them."""

    def __init__(
        self, values: Sequence[np.ndarray], costs: Sequence[np.ndarray]
    ) -> None:
        self._values = [np.asarray(v, np.float64) for v in values]
        self._costs = list(costs)
        spread = sum(float(np.ptp(v)) for v in self._values)
        smallest = min(
            (float(d) for c in costs for d in np.abs(np.diff(c, axis=0)).ravel() if d),
            default=1.0,
        )
        # At this price no value can outweigh the smallest difference in cost.
        self._highest = (spread + 1e-12) / smallest * 2.0

    def best(self, prices: np.ndarray) -> list[int]:
        return [
            int(np.argmin(v + c @ prices))
            for v, c in zip(self._values, self._costs, strict=True)
        ]

    def total(self, chosen: Sequence[int]) -> np.ndarray:
        return np.sum([c[i] for c, i in zip(self._costs, chosen, strict=True)], axis=0)

    def feasible(self, chosen: Sequence[int], resources: int | None = None) -> bool:
        return bool(np.all(self.total(chosen)[:resources] <= 1.0 + 1e-12))

    def cheapest(self) -> list[int]:
        """The choice that exceeds the limits least."""
        found = [
            [int(np.lexsort((v, c.max(axis=1)))[0]) for v, c in self._pairs()],
            [int(np.lexsort((v, c.sum(axis=1)))[0]) for v, c in self._pairs()],
        ]
        for resource in range(self._costs[0].shape[1] if self._costs else 0):
            found.append(
                [int(np.lexsort((v, c[:, resource]))[0]) for v, c in self._pairs()]
            )
        return min(found, key=lambda chosen: float(self.total(chosen).max(initial=0)))

    def _pairs(self) -> itertools.chain:
        return zip(self._values, self._costs, strict=True)

    def priced(self, prices: np.ndarray, resource: int) -> list[int]:
        """The best choice that keeps the limits of resources `0..resource`."""

        def at(price: float) -> list[int]:
            trial = prices.copy()
            trial[resource] = price
            if resource == 0:
                return self.best(trial)
            return self.priced(trial, resource - 1)

        free = at(0.0)
        if self.feasible(free, resource + 1):
            return free
        kept = at(self._highest)
        low, high = np.log(self._highest * 1e-18), np.log(self._highest)
        for _ in range(_STEPS if len(prices) == 1 else _STEPS_EACH):
            middle = (low + high) / 2.0
            chosen = at(float(np.exp(middle)))
            if self.feasible(chosen, resource + 1):
                kept, high = chosen, middle
            else:
                low = middle
        return kept

    def spend_the_rest(self, chosen: Sequence[int]) -> list[int]:
        """Better options, the largest gain first, as long as the limits allow them."""
        chosen = list(chosen)
        left = 1.0 + 1e-12 - self.total(chosen)
        while True:
            best_gain, best_move = 0.0, None
            for item, (v, c) in enumerate(self._pairs()):
                gain = v[chosen[item]] - v
                fits = np.all(c - c[chosen[item]] <= left, axis=1)
                gain = np.where(fits, gain, 0.0)
                option = int(np.argmax(gain))
                if gain[option] > best_gain:
                    best_gain, best_move = float(gain[option]), (item, option)
            if best_move is None:
                return chosen
            item, option = best_move
            left = left - self._costs[item][option] + self._costs[item][chosen[item]]
            chosen[item] = option
