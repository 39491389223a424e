"""Latency of ``.tflite`` files, measured side by side."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tfcompress.deploy.tflite_model import (
    ModelInputError,
    TensorInfo,
    TFLiteModel,
    open_interpreter,
)

# One timed sample lasts at least this long, so that the timer's own noise and cost
# (well under a microsecond) do not show.
MIN_SAMPLE_SECONDS = 1e-3
MAX_INVOKES = 1000

CLOCKS: dict[str, Callable[[], float]] = {
    "elapsed": time.perf_counter,
    "cpu": time.thread_time,
}


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one run of a model, in milliseconds.

    Attributes:
        median_ms, q1_ms, q3_ms, p90_ms: quantiles over the samples.
        cold_ms: the first run after loading, which includes lazy set-up.
        runs: number of samples.
        invokes: runs of the model averaged in each sample (more than one for models
            that take less than a millisecond).
        num_threads: CPU threads.
        batch_size: samples per run of the model.

    Example:
        >>> found = measure_latency("model.tflite", runs=5)["model.tflite"]
        >>> found.q1_ms <= found.median_ms <= found.q3_ms <= found.p90_ms
        True
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    p90_ms: float
    cold_ms: float
    runs: int
    invokes: int
    num_threads: int
    batch_size: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields as a plain dict, ready for JSON."""
        return dataclasses.asdict(self)


def measure_latency(
    paths: Mapping[str, str | os.PathLike] | Sequence[str | os.PathLike] | str,
    *,
    runs: int = 50,
    warmup: int = 10,
    num_threads: int = 1,
    batch_size: int = 1,
    seed: int = 0,
    clock: str = "elapsed",
) -> dict[str, Latency]:
    """Times several ``.tflite`` files in turn, so that machine drift hits all alike.

    Each round takes one sample of every file, in an order drawn anew. Only the
    model's run is timed, not the copying of inputs and outputs.

    Args:
        paths: name -> file, or a sequence of files (named by file name, or by full
            path where two file names are equal), or one file.
        runs: samples per file.
        warmup: untimed runs per file before the first sample.
        num_threads: CPU threads per model.
        batch_size: samples per run of the model.
        seed: for the random inputs and the order within a round.
        clock: `"elapsed"`, or `"cpu"`: processor time of the calling thread, which
            for one thread equals the elapsed time of an idle machine and leaves out
            what other processes take; see `steadiest_clock`.

    Returns:
        name -> `Latency`, in the order given.

    Raises:
        ModelFileError: a file is no working TFLite model.
        ModelInputError: an option is out of range, or a model has a free size other
            than the batch, or a fixed batch of another size.

    Example:
        >>> files = {"before": "model.tflite", "after": "model.tflite"}
        >>> measure_latency(files, runs=5)["after"]
        Latency(median_ms=..., runs=5, ..., num_threads=1, batch_size=1)
    """
    options = {"runs": runs, "num_threads": num_threads, "batch_size": batch_size}
    for name, value in {**options, "warmup": warmup + 1}.items():
        if value < 1:
            raise ModelInputError(
                f"`{name}` is too small (at least 1; for warmup 0). "
                f"Received: {name}={value - 1 if name == 'warmup' else value}"
            )
    if clock not in CLOCKS or (clock == "cpu" and num_threads > 1):
        raise ModelInputError(
            f"`clock` must be one of {tuple(CLOCKS)}, and 'cpu' counts one thread "
            f"only. Received: clock={clock!r}, num_threads={num_threads}"
        )
    random = np.random.default_rng(seed)
    interpreters = {
        name: prepare(path, num_threads, batch_size, random)
        for name, path in named_files(paths).items()
    }
    taken = sample_in_turn(
        interpreters, runs=runs, warmup=warmup, random=random, now=CLOCKS[clock]
    )
    return {
        name: Latency(
            **quantiles_ms(taken.seconds[name]),
            cold_ms=taken.cold[name] * 1e3,
            invokes=taken.invokes[name],
            **options,
        )
        for name in interpreters
    }


@dataclasses.dataclass(frozen=True)
class Samples:
    """Times of several models, taken in turn.

    Attributes:
        seconds: of a run, by model and round.
        cold: of the first run.
        invokes: runs averaged in a sample.
    """

    seconds: dict[str, list[float]]
    cold: dict[str, float]
    invokes: dict[str, int]


def sample_in_turn(
    interpreters: Mapping[str, Interpreter],
    *,
    runs: int,
    warmup: int,
    random: np.random.Generator,
    now: Callable[[], float],
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """One sample of every model in each round, in an order drawn anew.

    Args:
        interpreters: with their inputs set.
        runs: rounds.
        warmup: untimed runs of each before.
        random: draws the orders.
        now: the clock.
        progress: called with (rounds done, rounds in all).
    """
    cold = {name: _time(model, 1, now) for name, model in interpreters.items()}
    invokes = {
        name: _invokes(model, warmup, now) for name, model in interpreters.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in interpreters}
    names = list(interpreters)
    for done in range(runs):
        for position in random.permutation(len(names)):
            name = names[position]
            seconds[name].append(_time(interpreters[name], invokes[name], now))
        if progress is not None:
            progress(done + 1, runs)
    return Samples(seconds, cold, invokes)


def steadiest_clock(num_threads: int) -> str:
    """The clock that other processes on the machine disturb least.

    For one thread processor time, where the system counts it finely enough. Long
    samples of elapsed time are interrupted more often than short ones: on a busy
    machine a model would seem slower than the sum of its layers.
    """
    fine = time.get_clock_info("thread_time").resolution <= MIN_SAMPLE_SECONDS / 100
    return "cpu" if num_threads == 1 and fine else "elapsed"


def named_files(paths: Any) -> dict[str, str | os.PathLike]:
    """Files by name; see `measure_latency`."""
    if isinstance(paths, Mapping):
        named = dict(paths)
    else:
        listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        short = [Path(path).name for path in listed]
        named = {
            name if short.count(name) == 1 else os.fspath(path): path
            for name, path in zip(short, listed, strict=True)
        }
    if not named:
        raise ModelInputError("`paths` names no file to measure. Received: nothing")
    return named


def prepare(
    path: str | os.PathLike,
    num_threads: int,
    batch_size: int,
    random: np.random.Generator,
    *,
    use_xnnpack: bool = True,
) -> Interpreter:
    """A model with random inputs set, ready to run."""
    inputs = TFLiteModel(path, num_threads=num_threads).inputs
    interpreter = open_interpreter(
        path, num_threads=num_threads, use_xnnpack=use_xnnpack
    )
    for info in inputs:
        batch = info.shape[0] if info.shape else batch_size
        if batch not in (None, batch_size) or None in info.shape[1:]:
            raise ModelInputError(
                f"Input '{info.name}' of '{Path(path).name}' has shape {info.shape}, "
                "which must be free in the batch alone or fixed to `batch_size`; "
                f"export it with `input_shapes`. Received: batch_size={batch_size}"
            )
        if info.shape:
            interpreter.resize_tensor_input(info.index, (batch_size, *info.shape[1:]))
    interpreter.allocate_tensors()
    for info in inputs:
        interpreter.set_tensor(info.index, _random_input(info, batch_size, random))
    return interpreter


def _random_input(
    info: TensorInfo, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    shape = (batch_size, *info.shape[1:]) if info.shape else ()
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b" or not info.scale:
        # Plain integers are mostly indices into a table of unknown size.
        return random.integers(0, 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _invokes(interpreter: Interpreter, warmup: int, now: Callable[[], float]) -> int:
    """Warms a model up, and says how many runs make a sample long enough to time."""
    seconds = [_time(interpreter, 1, now) for _ in range(max(warmup, 1))]
    once = max(float(np.median(seconds)), 1e-9)
    return min(MAX_INVOKES, math.ceil(MIN_SAMPLE_SECONDS / once))


def _time(interpreter: Interpreter, invokes: int, now: Callable[[], float]) -> float:
    """Mean seconds of a run over `invokes` runs."""
    start = now()
    for _ in range(invokes):
        interpreter.invoke()
    return (now() - start) / invokes


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and 90 % quantile, in milliseconds."""
    q1, median, q3, p90 = np.quantile(seconds, [0.25, 0.5, 0.75, 0.9]) * 1e3
    return {
        "median_ms": float(median),
        "q1_ms": float(q1),
        "q3_ms": float(q3),
        "p90_ms": float(p90),
    }
