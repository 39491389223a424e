"""Several `.tflite` files against each other, and whether the difference is one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.deploy.latency import (
    CLOCKS,
    Samples,
    named_files,
    prepare,
    quantiles_ms,
    sample_in_turn,
)
from tfcompress.deploy.latency_cache import cpu_model
from tfcompress.deploy.tflite_model import ModelInputError, kernels

# Of the intervals of ratios.
CONFIDENCE = 0.95
_RESAMPLES = 2000
# An interval wider than this share of the ratio tells too little.
_WIDEST = 0.2

# Linux can forget the peak of the imports; elsewhere small models hide behind it.
_MEMORY_SCRIPT = """
import resource, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

def kilobytes(field):
    with open("/proc/self/status") as status:
        return int(next(x for x in status if x.startswith(field)).split()[1])

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // 1024 if sys.platform == "darwin" else used

path, threads, kernels = sys.argv[1:]
try:
    with open("/proc/self/clear_refs", "w") as forget:
        forget.write("5")
    before, after = kilobytes("VmRSS"), lambda: kilobytes("VmHWM")
except OSError:
    before, after = peak(), peak
interpreter = Interpreter(
    path,
    num_threads=int(threads),
    experimental_op_resolver_type=OpResolverType[kernels],
)
interpreter.allocate_tensors()
interpreter.invoke()
print(after() - before)
"""


@dataclasses.dataclass(frozen=True)
class Compared:
    """One file in one setting.

    Attributes:
        name: of the file.
        num_threads: CPU threads.
        xnnpack: with LiteRT's fast kernels.
        median_ms, q1_ms, q3_ms, p90_ms: quantiles over the samples.
        cold_ms: the first run after loading.
        memory_mb: what loading and one run add to the peak memory of a process; None
            where it was not measured.
        ratio: of its time to that of the first file in the same setting, by round.
        low, high: interval of the ratio (bootstrap, 95 %).

    Example:
        >>> found = compare_latency("model.tflite", runs=5, memory=False)
        >>> row = found.rows[0]
        >>> row.name, row.ratio, row.memory_mb
        ('model.tflite', 1.0, None)
    """

    name: str
    num_threads: int
    xnnpack: bool
    median_ms: float
    q1_ms: float
    q3_ms: float
    p90_ms: float
    cold_ms: float
    memory_mb: float | None
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "faster", "slower", "no difference" or "too noisy to tell"."""
        if self.low == self.high == 1.0:
            return ""
        if self.high < 1.0:
            return "faster"
        if self.low > 1.0:
            return "slower"
        wide = self.high - self.low > _WIDEST * self.ratio
        return "too noisy to tell" if wide else "no difference"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict, ready for JSON."""
        return dataclasses.asdict(self) | {"verdict": self.verdict}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Files compared in one run.

    Attributes:
        rows: by setting, in the order of the files.
        cpu: the processor.
        runs: samples of each.

    Example:
        >>> found = compare_latency("model.tflite", runs=5, memory=False)
        >>> [row.name for row in found.rows], found.runs
        (['model.tflite'], 5)
    """

    rows: tuple[Compared, ...]
    cpu: str
    runs: int

    @property
    def noisy(self) -> bool:
        """Whether the machine was too noisy for one of the ratios."""
        return any(row.verdict == "too noisy to tell" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return {
            "cpu": self.cpu,
            "runs": self.runs,
            "noisy": self.noisy,
            "rows": [row.to_dict() for row in self.rows],
        }


def compare_latency(
    paths: Mapping[str, str | os.PathLike] | Sequence[str | os.PathLike] | str,
    *,
    threads: Sequence[int] = (1,),
    xnnpack: Sequence[bool] = (True,),
    runs: int = 100,
    warmup: int = 20,
    batch_size: int = 1,
    seed: int = 0,
    memory: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Times files in one interleaved run, in several settings, with intervals.

    Every round takes one sample of every file in every setting, in an order drawn anew.
    Ratios are taken within rounds, so that drift of the machine cancels; their interval
    comes from resampling the rounds.

    Args:
        paths: see `measure_latency`; the first one is what the others are compared
            with.
        threads: numbers of CPU threads.
        xnnpack: with LiteRT's fast kernels (True), without (False), or both.
        runs: samples of each.
        warmup: untimed runs of each before.
        batch_size: samples per run of the model.
        seed: of inputs, orders and resampling.
        memory: also measure peak memory, in a process for each.
        progress: called with (rounds done, rounds in all).

    Raises:
        ModelFileError: a file is no working TFLite model.
        ModelInputError: an option is out of range.

    Example:
        >>> files = {"before": "model.tflite", "after": "model.tflite"}
        >>> found = compare_latency(files, runs=5, memory=False)
        >>> [row.name for row in found.rows]
        ['before', 'after']
    """
    if min(runs, batch_size, *threads) < 1 or warmup < 0 or not threads or not xnnpack:
        raise ModelInputError(
            "runs, threads and batch_size must be positive, warmup not negative. "
            f"Received: runs={runs}, threads={tuple(threads)}, "
            f"batch_size={batch_size}, warmup={warmup}"
        )
    files = named_files(paths)
    settings = list(itertools.product(threads, xnnpack, files))
    random = np.random.default_rng(seed)
    interpreters = {
        _key(*setting): prepare(
            files[setting[2]], setting[0], batch_size, random, use_xnnpack=setting[1]
        )
        for setting in settings
    }
    taken = sample_in_turn(
        interpreters,
        runs=runs,
        warmup=warmup,
        random=random,
        now=CLOCKS["elapsed"],
        progress=progress,
    )
    first = next(iter(files))
    rows = [
        _row(taken, setting, first, files[setting[2]] if memory else None, random)
        for setting in settings
    ]
    return Comparison(tuple(rows), cpu_model(), runs)


def _key(num_threads: int, use_xnnpack: bool, name: str) -> str:
    return json.dumps([num_threads, use_xnnpack, name])


def _row(
    taken: Samples,
    setting: tuple[int, bool, str],
    first: str,
    path: str | os.PathLike | None,
    random: np.random.Generator,
) -> Compared:
    num_threads, use_xnnpack, name = setting
    key = _key(*setting)
    seconds = np.array(taken.seconds[key])
    base = np.array(taken.seconds[_key(num_threads, use_xnnpack, first)])
    ratio, low, high = _ratio(seconds, base, random)
    return Compared(
        name=name,
        num_threads=num_threads,
        xnnpack=use_xnnpack,
        **quantiles_ms(seconds),
        cold_ms=taken.cold[key] * 1e3,
        memory_mb=None if path is None else _memory(path, num_threads, use_xnnpack),
        ratio=ratio,
        low=low,
        high=high,
    )


def _ratio(
    seconds: np.ndarray, base: np.ndarray, random: np.random.Generator
) -> tuple[float, float, float]:
    """Median of the ratios within rounds, and its interval."""
    ratios = seconds / base
    drawn = random.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return float(np.median(ratios)), float(low), float(high)


def _memory(path: str | os.PathLike, num_threads: int, use_xnnpack: bool) -> float:
    """Megabytes that loading and one run add to the peak memory of a new process."""
    arguments = [str(Path(path)), str(num_threads), kernels(use_xnnpack).name]
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY_SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]) / 1024
