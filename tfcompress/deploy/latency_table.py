"""Measured latency of single layers: the prices that planning by time works with."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras

from tfcompress.cost import layer_specs
from tfcompress.deploy.export import export_tflite
from tfcompress.deploy.latency import Latency, measure_latency, steadiest_clock
from tfcompress.deploy.latency_cache import Entry, LatencyCache, conditions
from tfcompress.deploy.single_layer import (
    LatencyError,
    SingleLayer,
    export_single,
    light_collections,
    single_layers,
    stock_layers,
)
from tfcompress.errors import OptionError
from tfcompress.layers import registry
from tfcompress.spec import LayerSpec

Request = tuple[LayerSpec, str | None, int | Sequence[int] | None]
Progress = Callable[[int, int], None]

_LOGGER = logging.getLogger(__name__)
_WARMUP = 5

# Timed in every session: a convolution of middling size, half a millisecond or so.
_REFERENCE = SingleLayer(
    "reference",
    keras.layers.Conv2D,
    {"filters": 64, "kernel_size": [3, 3], "padding": "same"},
    (28, 28, 64),
)

# Files measured in one session hold no more than this: LiteRT keeps each twice.
_SESSION_BYTES = 2**29

# Other processes lengthen elapsed time unevenly: beyond this spread of the reference,
# or change of it between sessions, scaling by it does not make times comparable.
_UNSTEADY = 1.5


@dataclasses.dataclass(frozen=True)
class LatencyCheck:
    """A whole model against the sum of its layers.

    Attributes:
        whole_ms: measured time of the model's `.tflite` file.
        layers_ms: sum of the times of its layers that multiply (`Cost.macs`).
        layers: number of calls in that sum.
        num_threads: CPU threads.
        untimed: layers that multiply but cannot be timed by themselves, such as the
            scores of attention, whose projections stand in the sum.

    Example:
        >>> LatencyCheck(whole_ms=1.25, layers_ms=1.0, layers=8, num_threads=1).gap
        0.2
    """

    whole_ms: float
    layers_ms: float
    layers: int
    num_threads: int
    untimed: tuple[str, ...] = ()

    @property
    def gap_ms(self) -> float:
        """What the sum leaves over: additions, poolings, weights from slower memory."""
        return self.whole_ms - self.layers_ms

    @property
    def gap(self) -> float:
        """The gap as a fraction of the whole."""
        return self.gap_ms / self.whole_ms

    def describe(self) -> str:
        """One line: the whole, the sum and the gap."""
        missing = f"; not timed: {', '.join(self.untimed)}" if self.untimed else ""
        return (
            f"whole model {self.whole_ms:.3f} ms, its {self.layers} layers "
            f"{self.layers_ms:.3f} ms, gap {self.gap_ms:.3f} ms "
            f"({100 * self.gap:.1f}%), on {self.num_threads} thread"
            f"{'s' if self.num_threads > 1 else ''}{missing}"
        )


class LatencyTable:
    """Times of single layers, measured on this machine as `.tflite` files.

    A layer is taken out of its model with its shapes and random weights, stock or
    factorized at some ranks, exported in float32 and timed by LiteRT at batch 1. What
    is asked for at once is measured in turns, so that drift of the machine hits all
    alike; all times are scaled by a reference layer to the speed of the machine when
    the table was begun, so that sessions compare too.

    On one thread processor time counts, which other processes do not lengthen. On more
    it is elapsed time: the machine should be otherwise idle, and what one decision
    rests on should be asked for in one `measure`.

    Args:
        path: JSON file that keeps the times between processes, made where missing.
            Times of another processor, thread count or LiteRT version in it are kept
            but not used. None keeps them in memory.
        num_threads: CPU threads.
        runs: samples of each layer.
        seed: of weights, inputs and the order of measuring.
        progress: called with (layers exported, layers missing) as measuring goes on.

    Raises:
        OptionError: `num_threads` or `runs` below 1.
        LatencyError: the file is no latency table.

    Example:
        >>> table = LatencyTable("latency.json")                      # doctest: +SKIP
        >>> spec = layer_specs(model)[0]                              # doctest: +SKIP
        >>> table.of(spec), table.of(spec, "Tucker2Conv2D", (16, 16)) # doctest: +SKIP
        (0.61, 0.24)
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        *,
        num_threads: int = 1,
        runs: int = 30,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        if num_threads < 1 or runs < 1:
            raise OptionError(
                "num_threads and runs of a latency table must be at least 1. "
                f"Received: num_threads={num_threads}, runs={runs}"
            )
        self.num_threads = num_threads
        self.runs = runs
        self.seed = seed
        self.progress = progress
        self._clock = steadiest_clock(num_threads)
        self._cache = LatencyCache(path, conditions(num_threads, self._clock))

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What was measured, by all of a layer that decides it, as JSON text."""
        return dict(self._cache.entries)

    def of(
        self,
        spec: LayerSpec,
        layer_type: str | None = None,
        ranks: int | Sequence[int] | None = None,
    ) -> float:
        """Milliseconds that a layer takes in one forward pass of one sample.

        Args:
            spec: from `tfcompress.cost.layer_specs`.
            layer_type: a factorized type; None for the layer as it is.
            ranks: of that type.

        Returns:
            The sum over all calls of the layer; 0.0 for one that is never called.

        Raises:
            OptionError: the type cannot replace the layer, or needs ranks.
            RankError: ranks out of range.
            LatencyError: the layer cannot be timed by itself.
        """
        return self._total(single_layers(spec, layer_type, ranks))

    def dense(self, spec: LayerSpec) -> float:
        """As `of`, of the stock layer that a layer is or stands for."""
        return self._total(stock_layers(spec))

    def measure(self, requests: Iterable[Request]) -> None:
        """Measures whatever of many requests is missing, in turns.

        Args:
            requests: arguments of `of`: `(spec, layer_type, ranks)`.

        Raises:
            OptionError, RankError, LatencyError: see `of`.
        """
        self._measured([one for asked in requests for one in single_layers(*asked)])

    def check(
        self, model: keras.Model, specs: Sequence[LayerSpec] | None = None
    ) -> LatencyCheck:
        """Holds the sum of a model's layers against the model itself.

        Args:
            model: a built model; it is exported in float32 and measured anew.
            specs: its layers, where they are known already.

        Returns:
            Both times and their gap.

        Raises:
            ExportError: the model cannot be exported.
        """
        specs = layer_specs(model) if specs is None else specs
        multiply = [spec for spec in specs if spec.cost.macs]
        # With parts that stand for themselves a layer would count twice.
        untimed = [spec.name for spec in multiply if registry.parts(spec.layer)]
        singles = {
            spec.name: single_layers(spec)
            for spec in multiply
            if spec.name not in untimed
        }
        failed = self._measure([one for found in singles.values() for one in found])
        for error in failed.values():
            _LOGGER.warning("%s", error)
        timed = []
        for name, found in singles.items():
            if any(one.key in failed for one in found):
                untimed.append(name)
            else:
                timed += found
        with tempfile.TemporaryDirectory() as folder:
            path = export_tflite(model, Path(folder) / "model.tflite")
            entries = self._session({"": path}, Path(folder))
        return LatencyCheck(
            whole_ms=self._cache.milliseconds(entries[""]),
            layers_ms=self._total(timed),
            layers=len(timed),
            num_threads=self.num_threads,
            untimed=tuple(untimed),
        )

    def _total(self, singles: Sequence[SingleLayer]) -> float:
        entries = self._measured(singles)
        calls = Counter(single.key for single in singles)
        return sum(
            count * self._cache.milliseconds(entries[key])
            for key, count in calls.items()
        )

    def _measured(self, singles: Sequence[SingleLayer]) -> Mapping[str, Entry]:
        for error in self._measure(singles).values():
            raise error
        return self._cache.entries

    def _measure(self, singles: Sequence[SingleLayer]) -> dict[str, LatencyError]:
        """Measures what is missing; returns, by key, why some cannot be."""
        missing = {s.key: s for s in singles if s.key not in self._cache.entries}
        waiting = list(missing)[::-1]
        failed: dict[str, LatencyError] = {}
        while waiting:
            with tempfile.TemporaryDirectory() as name:
                folder, files = Path(name), {}
                with light_collections():
                    while waiting and _size(folder) < _SESSION_BYTES:
                        key = waiting.pop()
                        path = folder / f"{len(waiting)}.tflite"
                        try:
                            files[key] = export_single(
                                missing[key], path, seed=self.seed
                            )
                        except LatencyError as error:
                            failed[key] = error
                        if self.progress is not None:
                            self.progress(len(missing) - len(waiting), len(missing))
                if files:
                    self._cache.add(self._session(files, folder))
        return failed

    def _session(self, files: Mapping[str, Path], folder: Path) -> dict[str, Entry]:
        """Times files and the reference in turns."""
        reference = folder / "reference.tflite"
        found = measure_latency(
            {
                **files,
                "reference": export_single(_REFERENCE, reference, seed=self.seed),
            },
            runs=self.runs,
            warmup=_WARMUP,
            num_threads=self.num_threads,
            seed=self.seed,
            clock=self._clock,
        )
        speed = found.pop("reference")
        self._warn_if_unsteady(speed)
        return {
            key: Entry(one.median_ms, one.q1_ms, one.q3_ms, speed.median_ms, self.runs)
            for key, one in found.items()
        }

    def _warn_if_unsteady(self, reference: Latency) -> None:
        if self._clock == "cpu":
            return
        usual = self._cache.reference_ms or reference.median_ms
        change = max(reference.median_ms / usual, usual / reference.median_ms)
        if max(change, reference.q3_ms / reference.q1_ms) > _UNSTEADY:
            _LOGGER.warning(
                "The machine is busy: do not trust times on %d threads, measure again "
                "when it is idle. Received: %s, usual median %.3f ms",
                *(self.num_threads, reference, usual),
            )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
