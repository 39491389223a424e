"""Does the loop keep the metric of tasks other than classification?

    python -m benchmarks.small_tasks  # five minutes

Three small convolutional networks read different things off digits: their class, the
angle they were turned by, and their picture without the noise that was added. Each is
compressed to a third of its MACs in two rounds, matching its own outputs, and judged by
its own metric on held-out images before and after.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import scipy.ndimage

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.digits_networks import BATCH_SIZE, digits
from tfcompress.distill import regression_divergence
from tfcompress.musco import Task, compress
from tfcompress.ranks import Budget

NAME = "small_tasks"
BUDGET = 1 / 3
EPOCHS = {"training": 60, "fine-tuning": 20}
TURN = 60.0
NOISE = 0.3
NOTES = (
    "Mean and standard deviation over the seeds, on held-out images (validation and",
    "test together: nothing is chosen on either).",
)

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One task.

    Attributes:
        task: loss and metric.
        data: `(images, labels, random) -> (inputs, targets)`.
        head: the last layers of its network.
    """

    task: Task
    data: Callable[[np.ndarray, np.ndarray, np.random.Generator], Arrays]
    head: Callable[[], list[keras.layers.Layer]]


def _classes(images: np.ndarray, labels: np.ndarray, random: Any) -> Arrays:
    return images, labels


def _turned(images: np.ndarray, labels: np.ndarray, random: Any) -> Arrays:
    angles = random.uniform(-TURN, TURN, len(images))
    turned = [
        scipy.ndimage.rotate(image, angle, reshape=False, order=1)
        for image, angle in zip(images, angles, strict=True)
    ]
    return np.stack(turned), (angles / TURN)[:, None].astype("float32")


def _noisy(images: np.ndarray, labels: np.ndarray, random: Any) -> Arrays:
    noise = random.normal(0.0, NOISE, images.shape).astype("float32")
    return images + noise, images


def _pooled(units: int) -> list[keras.layers.Layer]:
    return [keras.layers.Flatten(), keras.layers.Dense(units)]


def _picture() -> list[keras.layers.Layer]:
    return [keras.layers.Conv2D(1, 3, padding="same")]


def kinds() -> dict[str, Kind]:
    """The tasks by name."""
    number = Task(
        loss="mse",
        metrics=["mae"],
        monitor="mae",
        mode="min",
        divergence=regression_divergence,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classes = Task(loss=loss, metrics=["accuracy"], monitor="accuracy", mode="max")
    return {
        "class": Kind(classes, _classes, lambda: _pooled(10)),
        "angle": Kind(number, _turned, lambda: _pooled(1)),
        "picture": Kind(number, _noisy, _picture),
    }


def run_cell(name: str, seed: int) -> dict[str, Any]:
    """Trains, compresses and judges one network."""
    kind = kinds()[name]
    data, random = digits(), np.random.default_rng(seed)
    train, validation, test = (
        kind.data(*data.arrays(split), random)
        for split in ("train", "validation", "test")
    )
    held_out = [np.concatenate(pair) for pair in zip(validation, test, strict=True)]
    keras.utils.set_random_seed(seed)
    body = [
        keras.layers.Conv2D(32, 3, padding="same", activation="relu") for _ in range(3)
    ]
    model = keras.Sequential([keras.Input(train[0].shape[1:]), *body, *kind.head()])
    metric = kind.task.monitor
    _compile(model, kind)
    epochs = EPOCHS["training"]
    model.fit(*train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    result = compress(
        model,
        train,
        validation,
        target=Budget(macs=BUDGET),
        task=kind.task,
        max_drop=1e3,
        rounds=2,
        epochs=EPOCHS["fine-tuning"] // 2,
        jit_compile=False,
        seed=seed,
    )
    _compile(result.model, kind)
    before, after = (
        float(one.evaluate(*held_out, verbose=0, return_dict=True)[metric])
        for one in (model, result.model)
    )
    return {
        "before": before,
        "after": after,
        "higher_is_better": kind.task.mode == "max",
        "macs": result.cost.macs / result.original_cost.macs,
    }


def _compile(model: keras.Model, kind: Kind) -> None:
    metrics = list(kind.task.metrics)
    model.compile("adam", kind.task.loss, metrics=metrics)


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table."""
    rows = []
    for name, kind in kinds().items():
        names = [Cells.name(key) for key in keys if key[0] == name]
        group = [cells[name] for name in names if name in cells]
        if not group:
            continue
        row = [f"{name} ({kind.task.monitor})"]
        for side in ("before", "after"):
            values = [cell[side] for cell in group]
            row.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        macs = np.mean([cell["macs"] for cell in group])
        rows.append([*row, f"{macs:.3f}", len(group)])
    return [*table(["task", "before", "after", "MACs", "n"], rows), "", *NOTES]


def keys_of(seeds: int) -> list[tuple[str, int]]:
    """All cells, in the order to run them."""
    return list(itertools.product(kinds(), range(seeds)))


def main() -> None:
    settings = {"budget": BUDGET}
    run_grid(
        NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings=settings
    )


if __name__ == "__main__":
    main()
