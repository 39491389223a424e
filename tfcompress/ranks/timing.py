"""What the layers of a model take in time, for selectors that plan for latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from tfcompress.errors import BudgetError
from tfcompress.ranks.budget import Budget
from tfcompress.ranks.plan import LatencyEstimate
from tfcompress.spec import LayerSpec

Request = tuple[LayerSpec, str | None, tuple[int, ...] | None]


class Table(Protocol):
    """Times of single layers; `tfcompress.deploy.LatencyTable` is one."""

    num_threads: int

    def of(self, spec: LayerSpec, layer_type: Any = None, ranks: Any = None) -> float:
        """Milliseconds of a layer as it is, or as another type."""

    def dense(self, spec: LayerSpec) -> float:
        """Milliseconds of the stock layer a layer is or stands for."""

    def measure(self, requests: Sequence[Request]) -> None:
        """Measures what is missing, at once."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of the layers of one model.

    Attributes:
        table: where they come from.
        dense, now: milliseconds by layer, originally and as it is.
        rest_ms: the part of the model's time that no layer accounts for.
    """

    table: Table
    dense: dict[str, float]
    now: dict[str, float]
    rest_ms: float

    @classmethod
    def of_model(
        cls,
        specs: Sequence[LayerSpec],
        table: Table,
        rest_ms: float,
        requests: Sequence[Request] = (),
    ) -> Timing:
        """Times of the layers that can be factorized.

        What the other layers take is in `rest_ms`, as far as it is known.

        Args:
            specs: the layers.
            table: where times come from.
            rest_ms: see the attributes.
            requests: what will be asked of the table; measured along with the layers.
        """
        timed = [spec for spec in specs if spec.reason is None and spec.cost.macs]
        table.measure([*((spec, None, None) for spec in timed), *requests])
        dense = {spec.name: table.dense(spec) for spec in timed}
        return cls(table, dense, {s.name: table.of(s) for s in timed}, rest_ms)

    def estimate(self, after: dict[str, float]) -> LatencyEstimate:
        """Time of the whole model, with some layers' times replaced."""
        totals = [
            sum(times.values()) + self.rest_ms
            for times in (self.dense, self.now, self.now | after)
        ]
        return LatencyEstimate(*totals, self.rest_ms, self.table.num_threads)


def no_table(budget: Budget) -> BudgetError:
    """The error of a limit of latency without measured times."""
    return BudgetError(
        "A budget of latency needs a table of measured times: give "
        "Budgeted(latency=tfcompress.deploy.LatencyTable()). "
        f"Received: latency={budget.latency}"
    )
