"""Does iterating beat one shot? Ranks, factors and rounds at equal fine-tuning.

    python -m benchmarks.iterative_vs_oneshot              # some two hours, two cores
    python -m benchmarks.iterative_vs_oneshot --backwards  # beside it: the other end
    python -m benchmarks.iterative_vs_oneshot --size full  # the realistic version
    # Does longer fine-tuning make up for more? A quarter of an hour.
    python -m benchmarks.iterative_vs_oneshot --epochs 30 \
        --only "0.25 | one-shot Budgeted | dist"

Every cell compresses one network trained on Fashion-MNIST to one share of its MACs by
one method, with the same number of fine-tuning epochs in all, by labels or by
distillation from the original. Cells are saved as they end; a run that was stopped
goes on where it was. The rounds are not judged: none is rolled back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.cells import Cells, grid_parser
from benchmarks.common import RESULTS, table, write_table
from benchmarks.networks import BATCH_SIZE, dataset, trained
from tfcompress.distill import ViewSpec, evaluate
from tfcompress.musco import Compression, compress, musco
from tfcompress.ranks import VBMF, Budget, Budgeted

EPOCHS = {"small": 6, "full": 30}
BUDGETS = (0.5, 0.25, 0.125)
NETWORKS = ("resnet", "vgg")
TEACHING = ("distillation", "labels")
VIEWS = ViewSpec(mode="consistent", crop="mild", flip=True)
LEARNING_RATE = 3e-3

# VBMF has no strength of its own for a budget: the weakening factor is searched.
_VBMF = VBMF(weakening=None, min_rank=2)


def _one_shot_vbmf(target: Budget, epochs: int, **common: Any) -> Compression:
    options = {"selector": _VBMF, "rounds": 1, "calibration_steps": 0}
    return compress(target=target, max_drop=1.0, epochs=epochs, **options, **common)


def _one_shot_budgeted(target: Budget, epochs: int, **common: Any) -> Compression:
    options = {"selector": Budgeted(), "rounds": 1}
    return compress(target=target, max_drop=1.0, epochs=epochs, **options, **common)


def _musco(passes: int) -> Callable[..., Compression]:
    def run(target: Budget, epochs: int, **common: Any) -> Compression:
        options = {"selector": _VBMF, "passes": passes, "epochs": epochs // passes}
        return musco(target=target, **options, **common)

    return run


def _progressive(target: Budget, epochs: int, **common: Any) -> Compression:
    options = {"selector": Budgeted(), "rounds": 3, "epochs": epochs // 3}
    return compress(target=target, max_drop=1.0, **options, **common)


METHODS: dict[str, Callable[..., Compression]] = {
    "one-shot VBMF": _one_shot_vbmf,
    "one-shot Budgeted": _one_shot_budgeted,
    "MUSCO, 2 passes": _musco(2),
    "MUSCO, 3 passes": _musco(3),
    "progressive, 3 rounds": _progressive,
}


def run_cell(
    network: str,
    budget: float,
    method: str,
    by: str,
    seed: int,
    *,
    size: str,
    epochs: int,
) -> dict[str, Any]:
    """Compresses one network once and tests it."""
    data = dataset(size)
    model = trained(network, size=size, seed=seed, data=data)
    test = data.batches("test", 500)
    steps = data.sizes["train"] // BATCH_SIZE
    started = time.perf_counter()
    result = METHODS[method](
        Budget(macs=budget),
        epochs,
        model=model,
        train=data.batches("train", BATCH_SIZE, shuffle_seed=seed, repeat=True),
        validation=data.batches("validation", 500),
        by=by,
        views=VIEWS,
        learning_rate=LEARNING_RATE,
        steps_per_epoch=steps,
        # XLA takes longer to compile than it saves in so few steps on a CPU.
        jit_compile=False,
        seed=seed,
    )
    seconds = time.perf_counter() - started
    stages = ("factorized", "recalibrated", "fine_tuned")
    return {
        "accuracy_before": evaluate(model, test)["accuracy"],
        "accuracy": evaluate(result.model, test)["accuracy"],
        "macs": result.cost.macs / result.original_cost.macs,
        "params": result.cost.params / result.original_cost.params,
        "target_met": result.target_met,
        "validation": [
            {stage: getattr(r, stage)["accuracy"] for stage in stages}
            for r in result.history
        ],
        "seconds": seconds,
    }


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table: points of test accuracy lost, mean and standard deviation."""
    lines = []
    for network, by in itertools.product(NETWORKS, TEACHING):
        found: dict[tuple, list[dict[str, Any]]] = {}
        for key in keys:
            cell = cells.get(Cells.name(key))
            if cell and key[0] == network and key[3] == by:
                found.setdefault((key[2], key[1]), []).append(cell)
        rows = [
            [method, *(_entry(found.get((method, budget), [])) for budget in BUDGETS)]
            for method in METHODS
            if any((method, budget) in found for budget in BUDGETS)
        ]
        before = [c["accuracy_before"] for group in found.values() for c in group]
        if not before:
            continue
        header = [f"{network}, by {by}", *(f"{1 / b:.0f}x fewer MACs" for b in BUDGETS)]
        lines += [*table(header, rows), f"before: {100 * np.mean(before):.2f} %", ""]
    return lines


def _entry(group: list[dict[str, Any]]) -> str:
    if not group:
        return "-"
    lost = [100 * (c["accuracy_before"] - c["accuracy"]) for c in group]
    missed = "" if all(c["target_met"] for c in group) else " (budget missed)"
    return f"{np.mean(lost):+.2f} ± {np.std(lost):.2f} (n={len(lost)}){missed}"


def plot(cells: dict[str, dict[str, Any]], keys: list[tuple], path: Path) -> None:
    """Test accuracy over MACs with error bars over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(NETWORKS), len(TEACHING), figsize=(11, 8), sharex=True, squeeze=False
    )
    for axis, (network, by) in zip(
        axes.ravel(), itertools.product(NETWORKS, TEACHING), strict=True
    ):
        for method in METHODS:
            points = []
            for budget in BUDGETS:
                group = [
                    cells[Cells.name(k)]
                    for k in keys
                    if k[:4] == (network, budget, method, by) and Cells.name(k) in cells
                ]
                if group:
                    accuracy = [100 * c["accuracy"] for c in group]
                    macs = np.mean([c["macs"] for c in group])
                    points.append((macs, np.mean(accuracy), np.std(accuracy)))
            if points:
                x, y, spread = zip(*sorted(points), strict=True)
                axis.errorbar(x, y, spread, marker="o", capsize=3, label=method)
        axis.set_title(f"{network}, fine-tuned by {by}")
        axis.set_xscale("log")
        axis.set_xlabel("MACs, share of the original")
        axis.set_ylabel("test accuracy, %")
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = grid_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(EPOCHS), default="small")
    parser.add_argument("--epochs", type=int, help="of fine-tuning, in all")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    arguments = parser.parse_args()
    epochs = arguments.epochs or EPOCHS[arguments.size]
    keys = [
        (network, budget, method, by, seed)
        for seed, budget, by, network, method in itertools.product(
            range(arguments.seeds), BUDGETS, TEACHING, NETWORKS, METHODS
        )
    ]
    keys = [key for key in keys if arguments.only in Cells.name(key)]
    name = "iterative_vs_oneshot"
    if arguments.size != "small":
        name += f"_{arguments.size}"
    if arguments.epochs:
        name += f"_{epochs}_epochs"
    cells = Cells(RESULTS / f"{name}.json", settings={"epochs": epochs})

    def run(key: tuple) -> dict[str, Any]:
        keras.backend.clear_session()
        return run_cell(*key, size=arguments.size, epochs=epochs)

    if not arguments.report:
        cells.run(keys, run, minutes=arguments.minutes, backwards=arguments.backwards)
    write_table(name, summarize(cells.found, keys))
    if not arguments.only:
        plot(cells.found, keys, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
