"""Does a student gain from weights it starts with, and for how long?

    python -m benchmarks.warm_start  # three minutes

A network trained on digits is factorized to a quarter of its MACs. The factorized
network, and the same layers with new random weights, are then trained to match the
original on consistent views, for a short and a longer schedule (Beyer et al. 2021,
section 3.5, where the student starts from a network trained on other images).
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.digits_networks import (
    batches,
    digits,
    digits_network,
    held_out,
    steps_per_epoch,
)
from benchmarks.networks import CACHE
from tfcompress.cost import model_cost
from tfcompress.distill import Distiller, ViewSpec, evaluate, fit
from tfcompress.musco import factorize_once
from tfcompress.ranks import Budget

NAME = "warm_start"
STARTS = ("random", "factorized")
EPOCHS = (3, 30)
BUDGET = 0.25
VIEWS = ViewSpec(mode="consistent", crop="inception", smallest_area=0.25, flip=False)
NOTES = (
    "Held-out accuracy (validation and test together: nothing is chosen on either),",
    "mean and standard deviation over the seeds; in brackets KL from the original, in",
    "thousandths of a nat.",
)


def with_new_weights(model: keras.Model, seed: int) -> keras.Model:
    """The same layers, initialized anew: He's normal values for all that multiplies."""
    fresh = keras.models.clone_model(model)
    for place, weight in enumerate(fresh.trainable_weights):
        if len(weight.shape) > 1:
            # An initializer gives the same values each time it is called.
            initial = keras.initializers.HeNormal(1_000 * (seed + 1) + place)
            weight.assign(initial(weight.shape))
    return fresh


def factorized(teacher: keras.Model, seed: int, train: Any) -> keras.Model:
    """The factorized network; from the cache where it was made before."""
    path = CACHE / f"warm-start-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    target = Budget(macs=BUDGET)
    made, _ = factorize_once(
        teacher, train, target=target, calibration_steps=4, asymmetric=False
    )
    made.save(path)
    return made


def run_cell(start: str, epochs: int, seed: int) -> dict[str, Any]:
    """Trains one student and looks at what is held out."""
    data = digits()
    teacher = digits_network(seed, data)
    train = batches(data, seed)
    student = factorized(teacher, seed, train)
    if start == "random":
        student = with_new_weights(student, seed)
    fit(
        Distiller(student, teacher, views=VIEWS, seed=seed),
        train,
        None,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch(data),
        learning_rate=3e-3,
        jit_compile=False,
    )
    figures = evaluate(student, held_out(data), teacher=teacher)
    return {**figures, "macs": model_cost(student).macs / model_cost(teacher).macs}


def keys_of(seeds: int) -> list[tuple]:
    """All cells, the short ones first."""
    return [
        (start, epochs, seed)
        for epochs, seed, start in itertools.product(EPOCHS, range(seeds), STARTS)
    ]


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table."""
    rows = []
    for start in STARTS:
        row = [start]
        for epochs in EPOCHS:
            names = [Cells.name(key) for key in keys if key[:2] == (start, epochs)]
            group = [cells[name] for name in names if name in cells]
            points = [100 * cell["accuracy"] for cell in group]
            kl = 1e3 * np.mean([cell["kl"] for cell in group])
            row.append(f"{np.mean(points):.2f} ± {np.std(points):.2f} [{kl:.0f}]")
        rows.append(row)
    return [*table(["start", *(f"{n} epochs" for n in EPOCHS)], rows), "", *NOTES]


def main() -> None:
    settings = {"budget": BUDGET}
    run_grid(
        NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings=settings
    )


if __name__ == "__main__":
    main()
