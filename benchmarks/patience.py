"""Does a good teacher have to be patient and consistent? The paper's main figure.

    python -m benchmarks.patience              # about three hours, two cores
    python -m benchmarks.patience --backwards  # beside it: the other end

Beyer et al. 2021, figure 3 and table 3, on data that two cores can afford: a small
student matches its teacher in four modes, for short and for long schedules. "labels"
is the same student trained by labels on the same crops. Then the same for a low-rank
student that starts from the factorized teacher, where labels get as many more epochs as
the teacher's forward passes cost. Cells are saved as they end; a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cells import Cells, run_grid
from benchmarks.common import RESULTS, table
from benchmarks.networks import CACHE
from tfcompress import models
from tfcompress.cost import model_cost
from tfcompress.data import Dataset, load_dataset
from tfcompress.distill import Distiller, Supervised, ViewSpec, evaluate, fit
from tfcompress.musco import compress
from tfcompress.ranks import Budget, Budgeted

MODES = ("labels", "fixed", "independent", "consistent", "function_matching")
EPOCHS = {
    "digits": (30, 100, 300, 1000, 3000),
    "fashion": (10, 30, 100),
    "low rank": (10, 100, 300),
}
LEARNING_RATE = {"digits": 1e-2, "fashion": 3e-3, "low rank": 3e-3}
BATCH_SIZE = 128
BUDGET = 0.25

DATA = {
    "digits": {"name": "digits"},
    "fashion": {"name": "fashion_mnist", "train_limit": 3_840},
    "low rank": {"name": "digits"},
}
TEACHERS = {
    "digits": ({"depth": 8, "width": 16}, 60),
    "fashion": ({"depth": 8, "width": 32, "stem_strides": 2}, 60),
    "low rank": ({"depth": 8, "width": 16}, 60),
}
STUDENTS = {
    "digits": {"depth": 8, "width": 4},
    "fashion": {"depth": 8, "width": 8, "stem_strides": 2},
}
NOTES = (
    "Held-out accuracy (validation and test together: nothing is chosen on either),",
    "mean and standard deviation over the seeds; in brackets KL from the teacher,",
    "in thousandths of a nat. Crops: inception, from a quarter of the area.",
)


def view_spec(mode: str) -> ViewSpec:
    """Inception crops in every mode; of images of 8 pixels not below a quarter."""
    known = "consistent" if mode == "labels" else mode
    return ViewSpec(mode=known, crop="inception", smallest_area=0.25)


def teacher_of(experiment: str, data: Dataset) -> keras.Model:
    """The teacher, trained by labels once and kept."""
    path = CACHE / f"patience-{DATA[experiment]['name']}.keras"
    if path.exists():
        return keras.models.load_model(path)
    options, epochs = TEACHERS[experiment]
    model = models.resnet(data.image_shape, data.num_classes, seed=0, **options)
    trainer = Supervised(
        model, views=ViewSpec(mode="consistent", crop="mild", flip=False), seed=0
    )
    fit(
        trainer,
        _batches(data, 0),
        None,
        epochs=epochs,
        steps_per_epoch=data.sizes["train"] // BATCH_SIZE,
    )
    CACHE.mkdir(exist_ok=True)
    model.save(path)
    return model


def run_cell(experiment: str, mode: str, epochs: int, seed: int) -> dict[str, Any]:
    """Trains one student and looks at what is held out."""
    data = load_dataset(DATA[experiment])
    teacher = teacher_of(experiment, data)
    if experiment == "low rank":
        student = _low_rank(teacher, data, mode, epochs, seed)
    else:
        student = _small(experiment, teacher, data, mode, epochs, seed)
    held_out = data.batches("validation", 500).concatenate(data.batches("test", 500))
    figures = evaluate(student, held_out, teacher=teacher)
    teacher_figures = evaluate(teacher, held_out)
    return {
        **figures,
        "teacher_accuracy": teacher_figures["accuracy"],
        "macs": model_cost(student).macs / model_cost(teacher).macs,
    }


def _batches(data: Dataset, seed: int) -> tf.data.Dataset:
    return data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True)


def _small(
    experiment: str,
    teacher: keras.Model,
    data: Dataset,
    mode: str,
    epochs: int,
    seed: int,
) -> keras.Model:
    student = models.resnet(
        data.image_shape, data.num_classes, seed=seed, **STUDENTS[experiment]
    )
    views = view_spec(mode)
    if mode == "labels":
        trainer = Supervised(student, views=views, seed=seed)
    else:
        trainer = Distiller(student, teacher, views=views, seed=seed)
    fit(
        trainer,
        _batches(data, seed),
        None,
        epochs=epochs,
        steps_per_epoch=data.sizes["train"] // BATCH_SIZE,
        learning_rate=LEARNING_RATE[experiment],
        jit_compile=compiled(mode),
    )
    return student


def _low_rank(
    teacher: keras.Model, data: Dataset, mode: str, epochs: int, seed: int
) -> keras.Model:
    by_labels = mode == "labels"
    return compress(
        teacher,
        _batches(data, seed),
        data.batches("validation", 500),
        target=Budget(macs=BUDGET),
        selector=Budgeted(),
        rounds=1,
        max_drop=1.0,
        by="labels" if by_labels else "distillation",
        views=view_spec(mode),
        epochs=label_epochs(epochs) if by_labels else epochs,
        steps_per_epoch=data.sizes["train"] // BATCH_SIZE,
        learning_rate=LEARNING_RATE["low rank"],
        jit_compile=compiled(mode),
        cache=CACHE / "patience-measured",
        seed=seed,
    ).model


def compiled(mode: str) -> bool:
    """Whether XLA compiles the step: on a CPU it halves the time of a small student's
    own, and doubles that of a teacher's forward pass."""
    return mode == "labels"


def label_epochs(epochs: int) -> int:
    """Epochs by labels that cost what so many epochs of distillation do.

    A step takes three passes of the student, and one of the teacher, which is
    1 / BUDGET times as large.
    """
    return round(epochs * (3 * BUDGET + 1) / (3 * BUDGET))


def keys_of(seeds: int) -> list[tuple]:
    """All cells: the short ones of every kind first."""
    keys = [
        (experiment, mode, epochs, seed)
        for experiment in EPOCHS
        for epochs, seed, mode in itertools.product(
            EPOCHS[experiment], range(seeds), MODES
        )
    ]
    return sorted(keys, key=lambda key: (EPOCHS[key[0]].index(key[2]), key[3]))


def summarize(cells: dict[str, dict[str, Any]], keys: Sequence[tuple]) -> list[str]:
    """One table for each experiment."""
    lines = []
    for experiment, lengths in EPOCHS.items():
        groups = _groups(cells, keys, experiment)
        if not groups:
            continue
        rows = [
            [mode, *(_entry(groups.get((mode, epochs), [])) for epochs in lengths)]
            for mode in MODES
        ]
        header = [experiment, *(f"{epochs} epochs" for epochs in lengths)]
        teacher = next(iter(groups.values()))[0]["teacher_accuracy"]
        lines += [*table(header, rows), f"teacher: {100 * teacher:.2f} %", ""]
    return [*lines, *NOTES]


def _groups(
    cells: dict[str, dict[str, Any]], keys: Sequence[tuple], experiment: str
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for key in keys:
        cell = cells.get(Cells.name(key))
        if cell and key[0] == experiment:
            found.setdefault(key[1:3], []).append(cell)
    return found


def _entry(group: list[dict[str, Any]]) -> str:
    if not group:
        return "-"
    accuracy = [100 * cell["accuracy"] for cell in group]
    kl = np.mean([1000 * cell["kl"] for cell in group])
    return f"{np.mean(accuracy):.2f} ± {np.std(accuracy):.2f} [{kl:.0f}]"


def plot(cells: dict[str, dict[str, Any]], keys: Sequence[tuple], path: Path) -> None:
    """Accuracy and divergence over the number of epochs, with bars over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(EPOCHS), figsize=(13, 8), squeeze=False)
    for column, (experiment, lengths) in enumerate(EPOCHS.items()):
        groups = _groups(cells, keys, experiment)
        for mode in MODES:
            shown = [n for n in lengths if (mode, n) in groups]
            if not shown:
                continue
            for axis, name, scale in zip(
                axes[:, column], ("accuracy", "kl"), (100, 1), strict=True
            ):
                values = [
                    [scale * cell[name] for cell in groups[mode, n]] for n in shown
                ]
                axis.errorbar(
                    shown,
                    [np.mean(v) for v in values],
                    [np.std(v) for v in values],
                    marker="o",
                    capsize=3,
                    label=mode,
                )
        top, bottom = axes[:, column]
        if groups:
            teacher = next(iter(groups.values()))[0]["teacher_accuracy"]
            top.axhline(100 * teacher, color="gray", linestyle=":", label="teacher")
        top.set_title(experiment)
        top.set_ylabel("held-out accuracy, %")
        bottom.set_ylabel("KL from the teacher, nats")
        bottom.set_yscale("log")
        for axis in (top, bottom):
            axis.set_xscale("log")
            axis.set_xlabel("epochs")
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    cells, keys = run_grid(
        *("patience", __doc__.splitlines()[0], keys_of, run_cell, summarize),
        settings={"budget": BUDGET},
    )
    plot(cells.found, keys, RESULTS / "patience.png")


if __name__ == "__main__":
    main()
