"""Results in the form of the benchmarks, with a chosen lead for each claim."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

from benchmarks import (
    distillation_runs,
    patience,
    warm_start,
    weakened_rank,
)
from benchmarks import (
    tasks as task_recipes,
)
from benchmarks.cells import Cells

SEEDS = 3
MACHINE = {"cpu": "made up"}
# Grids of training, which may be stopped or not begun.
MADE = ("patience", "warm_start", "weakened_rank", "tasks", "distillation_runs")


def _grid(keys: list[tuple], cell: dict[str, Any]) -> dict[str, Any]:
    cells = {Cells.name(key): copy.deepcopy(cell) for key in keys}
    return {"settings": {}, "machine": MACHINE, "cells": cells}


def empty(name: str) -> dict[str, Any]:
    """A result of a benchmark that need not have been run yet, all cells alike."""
    figures = {"accuracy": 0.9, "kl": 0.1, "teacher_accuracy": 0.95}
    seeds = range(SEEDS)
    if name == "patience":
        return _grid(patience.keys_of(SEEDS), figures)
    if name == "warm_start":
        return _grid(warm_start.keys_of(SEEDS), figures)
    if name == "weakened_rank":
        parts = (weakened_rank.WIDTHS, weakened_rank.METHODS, seeds)
        return _grid(list(itertools.product(*parts)), figures | {"macs": 0.25})
    if name == "tasks":
        cell = {"before": 0.9, "after": 0.9, "higher_is_better": True}
        return _grid(task_recipes.keys_of(SEEDS), cell)
    assert name == "distillation_runs"
    keys = [
        (run, variant, seed)
        for run, variants in distillation_runs.VARIANTS.items()
        for variant in variants
        for seed in seeds
    ]
    return _grid(keys, figures | {"after": dict(figures)})


def _split(document: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    return [(name.split(" | "), cell) for name, cell in document["cells"].items()]


def _noise(seed: str) -> float:
    """Differs by seed, and is zero in the mean."""
    return 1e-3 * (int(seed) - 1)


def methods(place: int, better: tuple[str, ...], worse: str) -> Callable:
    """Gives the cells of some methods the accuracy of another's plus the lead."""

    def lead(document: dict[str, Any], by: float) -> None:
        for parts, cell in _split(document):
            cell["target_met"] = True
            if parts[place] in better:
                other = [*parts[:place], worse, *parts[place + 1 :]]
                base = document["cells"][" | ".join(other)]["accuracy"]
                cell["accuracy"] = base + by + _noise(parts[-1])

    return lead


def tasks(document: dict[str, Any], by: float) -> None:
    for parts, cell in _split(document):
        # Just what may be lost, and the lead.
        cell["after"] = cell["before"] * (0.97 + by + _noise(parts[-1]))


def recalibration(*factors: str) -> Callable:
    def lead(document: dict[str, Any], by: float) -> None:
        for parts, cell in _split(document):
            for name, method in cell.items():
                if name.endswith(factors):
                    gain = by + _noise(parts[-1])
                    method["recalibrated"] = method["accuracy"] + gain

    return lead


def correlation(document: dict[str, Any], by: float) -> None:
    for _, cell in _split(document):
        last = cell["validation"][-1]
        right, wrong = last["fine_tuned"], -last["fine_tuned"]
        last["factorized"] = wrong if by > 0 else right
        last["recalibrated"] = wrong if by < 0 else right


def planted(document: dict[str, Any], by: float) -> None:
    for cell, odd in _of_kind(document, "planted"):
        cell["found"] = cell["planted"] - 4 * (by < 0 or (by == 0 and odd))


def truncated(document: dict[str, Any], by: float) -> None:
    for cell, odd in _of_kind(document, "truncated"):
        cell["again"] = [cell["planted"] - 4 * (by < 0 or (by == 0 and odd))] * 2


def _of_kind(document: dict[str, Any], kind: str) -> list[tuple[dict[str, Any], bool]]:
    """Cells of a kind, and whether they belong to every other group of seeds."""
    found = [(parts, cell) for parts, cell in _split(document) if parts[0] == kind]
    groups = sorted({tuple(parts[:-1]) for parts, _ in found})
    return [(cell, groups.index(tuple(parts[:-1])) % 2 == 1) for parts, cell in found]


def layers(document: dict[str, Any], by: float) -> None:
    for parts, cell in _split(document):
        base = cell["weights"]["across layers"]
        cell["weights"]["across decompositions"] = base + by + _noise(parts[-1])


def delivered(document: dict[str, Any], by: float) -> None:
    for row in document["data"]:
        row["delivered"] = 1.0 - 10.0 * by


def alignment(document: dict[str, Any], by: float) -> None:
    for row in document["data"]:
        slower = by if row["channels"] % 4 else 0.0
        row |= {"median_ms": 1.0 + slower, "q1_ms": 0.99 + slower}
        row["q3_ms"] = 1.01 + slower


def mixup(document: dict[str, Any], by: float) -> None:
    for (experiment, mode, epochs, seed), cell in _split(document):
        if mode == "function_matching":
            ends = patience.EPOCHS[experiment]
            sign = {ends[0]: -1, ends[-1]: 1}.get(int(epochs), 0)
            base = document["cells"][f"{experiment} | consistent | {epochs} | {seed}"]
            cell["accuracy"] = base["accuracy"] + sign * by + _noise(seed)


def longer(document: dict[str, Any], by: float) -> None:
    for (experiment, _, epochs, seed), cell in _split(document):
        place = patience.EPOCHS[experiment].index(int(epochs))
        # Noise that differs from one length to the next, and is zero in the mean.
        noise = _noise(str((int(seed) + place) % SEEDS))
        cell["accuracy"] = 0.5 + by * place + noise


def overfit(document: dict[str, Any], by: float) -> None:
    for (experiment, mode, epochs, seed), cell in _split(document):
        if mode == "labels":
            last = int(epochs) == patience.EPOCHS[experiment][-1]
            cell["accuracy"] = 0.8 - (by + _noise(seed)) * last


def warm(document: dict[str, Any], by: float) -> None:
    for (start, epochs, seed), cell in _split(document):
        if start == "factorized":
            short = int(epochs) == min(warm_start.EPOCHS)
            base = document["cells"][f"random | {epochs} | {seed}"]["accuracy"]
            cell["accuracy"] = base + by * short + _noise(seed)


def statistics(document: dict[str, Any], by: float) -> None:
    for parts, cell in _split(document):
        if parts[0] == "batch norm":
            gain = by + _noise(parts[-1])
            cell["after"]["accuracy"] = cell["accuracy"] + gain


LEADS: dict[str, Callable[[dict[str, Any], float], None]] = {
    "musco-iterating": methods(
        2, ("MUSCO, 2 passes", "MUSCO, 3 passes"), "one-shot VBMF"
    ),
    "musco-iterating-budgeted": methods(
        2, ("progressive, 3 rounds",), "one-shot Budgeted"
    ),
    "musco-weakened": methods(1, ("weakened",), "extreme"),
    "musco-tasks": tasks,
    "eagleeye-recalibration": recalibration("plain"),
    "eagleeye-recalibration-data": recalibration("data-aware", "asymmetric"),
    "eagleeye-correlation": correlation,
    "evbmf-rank": planted,
    "evbmf-again": truncated,
    "weight-error-layers": layers,
    "macs-latency": delivered,
    "channel-alignment": alignment,
    "consistent-over-fixed": methods(1, ("consistent",), "fixed"),
    "consistent-over-independent": methods(1, ("consistent",), "independent"),
    "mixup-short-long": mixup,
    "patience": longer,
    "labels-overfit": overfit,
    "warm-start": warm,
    "batch-norm-costs": statistics,
}
