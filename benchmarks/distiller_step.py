"""How long does a distillation step take, against keras.distillation and its parts?

    python -m benchmarks.distiller_step

For three pairs of networks, in one run, in turn: a `fit` step of our Distiller with
function matching (crops, mirrors and mixup in the step), the same work by
`keras.distillation.Distiller` (the KL of softmaxes it takes when told so by an object,
the views mapped in the input pipeline), a `fit` step of the student by labels without
views, a forward pass of the teacher alone, and our step with the teacher's logits from
a cache. Each with XLA and without. Memory is the peak of a process that does nothing
else. Adam, float32, batches in memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.common import table, write_result
from tfcompress import models
from tfcompress.distill import (
    Distiller,
    ViewSpec,
    cache_logits,
    make_views,
    numbered,
    with_cached_logits,
)

VIEWS = ViewSpec(mode="function_matching", crop="inception", flip=True)
KINDS = ("ours", "keras", "student", "teacher", "ours, cached")
STEPS = 24

NOTES = (
    "ms per step: median and quartiles over the repeats. ours / keras: the same work;",
    "target: at most 0.95. ours / sum: a teacher's forward pass and a plain student",
    "step without views; target: at most 0.85. Peak memory in MB of a process alone.",
)


def _mobile(shape: tuple[int, int, int], classes: int) -> keras.Model:
    return keras.applications.MobileNetV2(
        input_shape=shape, classes=classes, alpha=0.35, weights=None
    )


# Teacher, student, image shape, batch size.
PAIRS: dict[str, tuple[Callable, Callable, tuple[int, int, int], int]] = {
    "digits: resnet14 -> resnet8": (
        lambda s: models.resnet(s, 10, depth=14, width=16, seed=0),
        lambda s: models.resnet(s, 10, depth=8, width=16, seed=1),
        (8, 8, 1),
        128,
    ),
    "28x28: resnet20 -> resnet8": (
        lambda s: models.resnet(s, 10, depth=20, width=16, seed=0),
        lambda s: models.resnet(s, 10, depth=8, width=16, seed=1),
        (28, 28, 1),
        128,
    ),
    "64x64: vgg -> MobileNetV2": (
        lambda s: models.vgg(s, 10, width=32, seed=0),
        lambda s: _mobile(s, 10),
        (64, 64, 3),
        32,
    ),
}


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def make(kind: str, pair: str, jit: bool, folder: Path) -> Callable[[], float]:
    """A function that takes `STEPS` steps of a kind and returns the seconds of one."""
    make_teacher, make_student, shape, batch = PAIRS[pair]
    teacher, student = make_teacher(shape), make_student(shape)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4 * batch, *shape)).astype("float32")
    labels = rng.integers(0, 10, 4 * batch).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(
        batch, drop_remainder=True
    )
    data = data.cache().repeat().prefetch(tf.data.AUTOTUNE)
    if kind == "teacher":
        forward = tf.function(
            lambda x: teacher(x, training=False), jit_compile=jit, reduce_retracing=True
        )

        def run() -> float:
            started = time.perf_counter()
            for x, _ in data.take(STEPS):
                forward(x)
            return (time.perf_counter() - started) / STEPS

        return run
    options = {"jit_compile": jit, "steps_per_execution": 8}
    if kind.startswith("ours"):
        trainer: keras.Model = Distiller(student, teacher, views=VIEWS)
        trainer.compile(keras.optimizers.Adam(), **options)
        if kind == "ours, cached":
            counted = numbered(images, labels, batch_size=batch, replay=1)
            cache_logits(trainer, counted, folder, samples=4 * batch)
            data = with_cached_logits(counted, trainer, folder, checked=0)
    elif kind == "keras":
        trainer = _keras_distiller(student, teacher, options)
        data = data.enumerate().map(_seen, num_parallel_calls=tf.data.AUTOTUNE)
        data = data.prefetch(tf.data.AUTOTUNE)
    else:
        trainer = student
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=not pair.endswith("MobileNetV2")
        )
        trainer.compile(keras.optimizers.Adam(), loss, **options)

    def run() -> float:
        clock = _Clock()
        trainer.fit(data, epochs=1, steps_per_epoch=STEPS, verbose=0, callbacks=[clock])
        return clock.seconds[0] / STEPS

    return run


def _seen(step: Any, batch: Any) -> Any:
    images, labels = batch
    key = tf.stack([tf.constant(0, tf.int64), step])
    return make_views(images, key, VIEWS).student, labels


def _keras_distiller(
    student: keras.Model, teacher: keras.Model, options: dict[str, Any]
) -> keras.Model:
    loss = keras.distillation.LogitsDistillation(
        temperature=1.0, loss=keras.losses.KLDivergence()
    )
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=[loss],
        distillation_loss_weights=[1.0],
        student_loss_weight=0.0,
    )
    distiller.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return distiller


def measure(pair: str, jit: bool, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of a step of each kind, repeat by repeat, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            kind: make(kind, pair, jit, Path(folder) / kind.replace(", ", "_"))
            for kind in KINDS
        }
        for run in runs.values():
            run()
            run()
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(repeats):
            for kind, run in runs.items():
                found[kind].append(1000 * run())
    return found


def memory(kind: str, pair: str, jit: bool) -> float:
    """Peak memory in MB of a process that takes steps of one kind."""
    command = [sys.executable, "-m", "benchmarks.distiller_step", "--one"]
    done = subprocess.run(
        [*command, kind, pair, str(int(jit))],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def _one(kind: str, pair: str, jit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(kind, pair, bool(int(jit)), Path(folder))()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def summarize(results: list[dict[str, Any]]) -> list[str]:
    """The table: times, ratios, memory."""
    header = [
        "pair",
        "XLA",
        *KINDS,
        "ours / keras",
        "ours / sum",
        "MB ours",
        "MB keras",
    ]
    rows = []
    for result in results:
        times = {k: np.array(v) for k, v in result["ms"].items()}
        total = times["student"] + times["teacher"]
        rows.append(
            [
                result["pair"],
                "yes" if result["jit"] else "no",
                *(_quartiles(times[kind]) for kind in KINDS),
                f"{np.median(times['ours'] / times['keras']):.2f}",
                f"{np.median(times['ours'] / total):.2f}",
                *(f"{result['memory'][kind]:.0f}" for kind in ("ours", "keras")),
            ]
        )
    return [*table(header, rows), "", *NOTES]


def _quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(*arguments.one)
        return
    results = []
    for pair in PAIRS:
        for jit in (True, False):
            keras.backend.clear_session()
            results.append(
                {
                    "pair": pair,
                    "jit": jit,
                    "ms": measure(pair, jit, arguments.repeats),
                    "memory": {k: memory(k, pair, jit) for k in ("ours", "keras")},
                }
            )
            print(*summarize(results), sep="\n", flush=True)
    write_result("distiller_step", results, summarize(results))


if __name__ == "__main__":
    main()
