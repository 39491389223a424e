"""Distillation beyond the plain case, each on Fashion-MNIST.

    python -m benchmarks.distillation_runs   # about an hour, two cores

- resolution: the teacher sees 28x28, the student 14x14; against labels at 14x14.
- teachers: a ResNet-style teacher, a VGG-style one, and both (mean of the logits).
- batch norm: a MobileNetV2 student before and after its statistics are brought up to
  date on clean images, with function matching and with consistent views.

Cells are saved as they end; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.networks import BATCH_SIZE, dataset, trained
from tfcompress import models
from tfcompress.data import Dataset
from tfcompress.distill import Distiller, Supervised, ViewSpec, fit
from tfcompress.distill.crops import crop_and_resize, full_boxes

EPOCHS = 20
STEPS_PER_EPOCH = 100
LEARNING_RATE = 3e-3
MILD = ViewSpec(mode="consistent", crop="mild", flip=True)
VARIANTS = {
    "resolution": ("labels, 14x14", "distilled, 28x28 -> 14x14"),
    "teachers": ("resnet", "vgg", "both"),
    "batch norm": ("consistent", "function_matching"),
}
NOTES = ("Test accuracy, mean and standard deviation over the seeds.",)


def _student(size: int, data: Dataset, seed: int) -> keras.Model:
    shape = (size, size, 1)
    return models.resnet(shape, data.num_classes, depth=8, width=16, seed=seed)


def _distilled(
    student: keras.Model, teachers: Any, data: Dataset, seed: int, spec: ViewSpec
) -> Distiller:
    distiller = Distiller(student, teachers, views=spec, seed=seed)
    _fit(distiller, data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True))
    return distiller


def _fit(trainer: keras.Model, batches: Any) -> None:
    fit(
        trainer,
        batches,
        None,
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        learning_rate=LEARNING_RATE,
        jit_compile=False,
    )


def _tested(distiller: Distiller, data: Dataset) -> dict[str, float]:
    figures = distiller.evaluate(data.batches("test", 500), verbose=0, return_dict=True)
    return {key: float(value) for key, value in figures.items()}


def resolution(variant: str, seed: int) -> dict[str, Any]:
    """A student of half the resolution."""
    data = dataset("small")
    student = _student(14, data, seed)
    teacher = trained("resnet", size="small", seed=0, data=data)
    if variant.startswith("distilled"):
        return _tested(_distilled(student, teacher, data, seed, MILD), data)

    def shrink(images: Any, labels: Any) -> Any:
        return crop_and_resize(
            images, full_boxes(tf.shape(images)[0]), (14, 14)
        ), labels

    batches = data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True)
    _fit(Supervised(student, views=MILD, seed=seed), batches.map(shrink))
    tester = Distiller(student, teacher)
    tester.compile()
    return _tested(tester, data)


def teachers(variant: str, seed: int) -> dict[str, Any]:
    """One teacher, another, and both."""
    data = dataset("small")
    names = ("resnet", "vgg") if variant == "both" else (variant,)
    known = [trained(name, size="small", seed=0, data=data) for name in names]
    return _tested(_distilled(_student(28, data, seed), known, data, seed, MILD), data)


def batch_norm(variant: str, seed: int) -> dict[str, Any]:
    """A student full of batch normalization, before and after recalibration."""
    data = dataset("small")
    keras.utils.set_random_seed(seed)
    student = keras.applications.MobileNetV2(
        input_shape=(32, 32, 1),
        alpha=0.35,
        weights=None,
        classes=data.num_classes,
        classifier_activation=None,
    )
    teacher = trained("resnet", size="small", seed=0, data=data)
    spec = ViewSpec(mode=variant, crop="inception", smallest_area=0.25, flip=True)
    distiller = _distilled(student, teacher, data, seed, spec)
    before = _tested(distiller, data)
    distiller.recalibrate(data.batches("train", BATCH_SIZE, shuffle_seed=seed))
    after = _tested(distiller, data)
    return before | {"after": after}


RUNS = {"resolution": resolution, "teachers": teachers, "batch norm": batch_norm}


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """One line for each variant."""
    rows = []
    for run, variants in VARIANTS.items():
        for variant in variants:
            names = [Cells.name(key) for key in keys if key[:2] == (run, variant)]
            group = [cells[name] for name in names if name in cells]
            if not group:
                continue
            if run == "batch norm":
                rows.append(_row(f"{run}: {variant}, before", group))
                after = [cell["after"] for cell in group]
                rows.append(_row(f"{run}: {variant}, recalibrated", after))
            else:
                rows.append(_row(f"{run}: {variant}", group))
    header = ("run", "accuracy", "agreement", "teacher", "KL", "n")
    return [*table(header, rows), "", *NOTES]


def _row(name: str, group: list[dict[str, Any]]) -> tuple[Any, ...]:
    def of(key: str) -> str:
        values = [100 * cell[key] for cell in group]
        return f"{np.mean(values):.2f} ± {np.std(values):.2f}"

    teacher = np.mean([100 * cell["teacher_accuracy"] for cell in group])
    kl = np.mean([cell["kl"] for cell in group])
    return (
        name,
        of("accuracy"),
        of("agreement"),
        f"{teacher:.2f}",
        f"{kl:.3f}",
        len(group),
    )


def keys_of(seeds: int) -> list[tuple[str, str, int]]:
    """All cells, in the order to run them."""
    return [
        (run, variant, seed)
        for seed, run in itertools.product(range(seeds), RUNS)
        for variant in VARIANTS[run]
    ]


def run_cell(run: str, variant: str, seed: int) -> dict[str, Any]:
    """Trains one student, and scores it on the test images."""
    return RUNS[run](variant, seed)


def main() -> None:
    run_grid(
        *("distillation_runs", __doc__.splitlines()[0], keys_of, run_cell, summarize),
        settings={"epochs": EPOCHS},
    )


if __name__ == "__main__":
    main()
