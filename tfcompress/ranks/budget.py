"""Budgets: what compression may cost."""

from __future__ import annotations

import dataclasses
import math

from tfcompress.errors import BudgetError
from tfcompress.spec import Cost

FIELDS = Cost._fields


def within(value: float, limit: float) -> bool:
    """Whether a value keeps a limit, rounding apart.

    A fraction times a whole may fall just below the integer it stands for: 0.29 of 100
    is 28.999999999999996.
    """
    return value <= limit * (1.0 + 1e-12)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the compressed model may cost, as fractions of the original model.

    Args:
        macs: multiply-accumulates, in (0, 1]; None for no limit.
        params: number of weights, in (0, 1]; None for no limit.
        bytes: bytes of the weights, in (0, 1]; None for no limit.
        latency: measured time of one forward pass, in (0, 1]; None for no limit. Only
            the selector "budgeted" plans for it.

    Raises:
        BudgetError: a fraction outside (0, 1], or no limit at all.

    Example:
        >>> Budget(macs=0.4).describe()
        'macs <= 40.0%'
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if not limits:
            raise BudgetError(
                "A budget needs at least one limit, such as Budget(macs=0.4). "
                "Received: none"
            )
        for name, value in limits.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and 0.0 < value <= 1.0):
                raise BudgetError(
                    f"Budget {name} must be a fraction of the original in (0, 1]. "
                    f"Received: {name}={value}"
                )

    def limits(self) -> dict[str, float]:
        """The limits that are set, by field name; "latency" is no field of `Cost`."""
        values = {name: getattr(self, name) for name in (*FIELDS, "latency")}
        return {name: value for name, value in values.items() if value is not None}

    def met(self, cost: Cost, dense: Cost) -> bool:
        """Whether `cost` is within every limit of costs relative to `dense`.

        Time is no cost that shapes tell: `Plan.met` judges a limit of latency.
        """
        return all(
            within(getattr(cost, name), limit * getattr(dense, name))
            for name, limit in self.limits().items()
            if name in FIELDS
        )

    def toward(
        self, cost: Cost, dense: Cost, share: float, *, latency_now: float = 1.0
    ) -> Budget:
        """The budget on the way from `cost` to this one, in equal ratios.

        Args:
            cost: where the model is now.
            dense: the original model's cost.
            share: 0 stays where the model is, 1 is this budget.
            latency_now: time of the model now, as a fraction of the original's; see
                `LatencyEstimate.ratio`.
        """
        stages = {}
        for name, limit in self.limits().items():
            if name in FIELDS:
                now = getattr(cost, name) / max(getattr(dense, name), 1)
            else:
                now = latency_now
            now = min(max(now, limit), 1.0)
            stages[name] = now ** (1.0 - share) * limit**share
        return Budget(**stages)

    def describe(self) -> str:
        """One line, such as "macs <= 40.0%"."""
        return ", ".join(f"{k} <= {100 * v:.1f}%" for k, v in self.limits().items())


def no_latency(selector: str, budget: Budget) -> BudgetError:
    """The error of a limit of latency that nobody plans for."""
    return BudgetError(
        f"The selector {selector} cannot plan for latency: use the selector 'budgeted' "
        "with a latency table, or limit macs instead. "
        f"Received: latency={budget.latency}"
    )
