"""Do weakened ranks in passes beat the extreme rank in one shot?

    python -m benchmarks.weakened_rank  # two minutes

A perceptron of three dense layers is trained on digits. "extreme" cuts every layer to
the extreme rank of EVBMF at once and fine-tunes; "weakened" goes most of the way three
times, each with a third of the epochs, as MUSCO does (Gusak et al. 2019), and ends at
about the same cost. Small convolutions trained on digits are no use here: EVBMF finds
nothing above the noise in most of them.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.digits_networks import VIEWS, batches, digits, held_out, steps_per_epoch
from benchmarks.networks import CACHE
from tfcompress.data import Dataset
from tfcompress.distill import Supervised, evaluate, fit
from tfcompress.musco import musco
from tfcompress.ranks import VBMF

NAME = "weakened_rank"
# Weakening factor, passes.
METHODS = {"extreme": (1.0, 1), "weakened": (0.8, 3)}
WIDTHS = (128,)
EPOCHS = 9
NOTES = (
    "Points of held-out accuracy lost (validation and test together: nothing is chosen",
    "on either), mean and standard deviation over the seeds; in brackets KL from the",
    "original, in thousandths of a nat.",
)


def perceptron(width: int, seed: int, data: Dataset) -> keras.Model:
    """Three dense layers, trained by labels; from the cache where they are there."""
    path = CACHE / f"perceptron-{width}-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    model = keras.Sequential(
        [keras.Input(data.image_shape), keras.layers.Flatten(), *hidden]
        + [keras.layers.Dense(data.num_classes)]
    )
    fit(
        Supervised(model, views=VIEWS, seed=seed),
        batches(data, seed),
        None,
        epochs=100,
        steps_per_epoch=steps_per_epoch(data),
        learning_rate=3e-3,
        weight_decay=1e-3,
        jit_compile=False,
    )
    CACHE.mkdir(exist_ok=True)
    model.save(path)
    return model


def run_cell(width: int, method: str, seed: int) -> dict[str, Any]:
    """Compresses one network by one of the methods."""
    data = digits()
    model = perceptron(width, seed, data)
    weakening, passes = METHODS[method]
    result = musco(
        model,
        batches(data, seed),
        data.batches("validation", 500),
        selector=VBMF(weakening=weakening, min_rank=2),
        passes=passes,
        epochs=EPOCHS // passes,
        steps_per_epoch=steps_per_epoch(data),
        learning_rate=1e-3,
        views=VIEWS,
        jit_compile=False,
        seed=seed,
    )
    figures = evaluate(result.model, held_out(data), teacher=model)
    before = evaluate(model, held_out(data))["accuracy"]
    macs = result.cost.macs / result.original_cost.macs
    return {**figures, "accuracy_before": before, "macs": macs}


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table."""
    rows = []
    for width, method in itertools.product(WIDTHS, METHODS):
        names = [Cells.name(key) for key in keys if key[:2] == (width, method)]
        group = [cells[name] for name in names if name in cells]
        if not group:
            continue
        lost = [100 * (cell["accuracy_before"] - cell["accuracy"]) for cell in group]
        kl = 1e3 * np.mean([cell["kl"] for cell in group])
        macs = np.mean([cell["macs"] for cell in group])
        shown = f"{np.mean(lost):+.2f} ± {np.std(lost):.2f} [{kl:.0f}]"
        rows.append([f"{width} units, {method}", f"{macs:.3f}", shown, len(group)])
    return [*table(["ranks", "MACs", "points lost", "n"], rows), "", *NOTES]


def keys_of(seeds: int) -> list[tuple[int, str, int]]:
    """All cells, in the order to run them."""
    cells = itertools.product(range(seeds), WIDTHS, METHODS)
    return [(width, method, seed) for seed, width, method in cells]


def main() -> None:
    settings = {"epochs": EPOCHS}
    run_grid(
        NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings=settings
    )


if __name__ == "__main__":
    main()
