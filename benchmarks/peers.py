"""How does tfcompress do against its peers, over MACs and over measured latency?

    python -m benchmarks.peers                   # about two hours, two cores
    python -m benchmarks.peers --networks vgg    # beside another process
    python -m benchmarks.peers --size full       # the realistic version

Every cell compresses one network trained on Fashion-MNIST to one share of its MACs by
one method and fine-tunes it for the same number of epochs on the same views. Accuracy,
size and latency are those of the float32 `.tflite` file; time is measured in turns with
the dense file, on one thread. Cells are saved as they end; a run that was stopped goes
on where it was.

The peers, as far as they can be carried over to Keras 3 (PyTorch is not needed):

- uniform ranks: plain factors at one fraction of all ranks.
- tensorly-torch: its method, not the package. Tucker factors of every convolution by
  TensorLy at the ranks that keep one fraction of a layer's parameters.
- torch-pruning: its method, not the package; see `benchmarks.channel_pruning`.
- tfmot pruning: the package itself, by `tfcompress.quantize`, at the sparsity that
  makes the gzipped file as large as that of tfcompress. Its MACs stay.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.cells import Cells
from benchmarks.common import RESULTS, table, write_table
from benchmarks.iterative_vs_oneshot import EPOCHS
from benchmarks.networks import dataset, trained
from benchmarks.peer_methods import METHODS, Trial
from benchmarks.pruned_size import gzipped_size
from tfcompress.cost import model_cost
from tfcompress.data import Dataset
from tfcompress.deploy import evaluate_tflite, export_tflite, measure_latency
from tfcompress.deploy.latency import steadiest_clock
from tfcompress.ranks import Budget

BUDGETS = (0.5, 0.25)
NETWORKS = ("resnet", "vgg")
LATENCY_RUNS = 100

NOTES = (
    "Points of test accuracy lost: mean and standard deviation over n seeds. MACs,",
    "weights (those not zero), gzip and latency: shares of the dense network's.",
    "Latency: processor time at batch 1 on one thread, in turns with the dense file.",
    "All are fine-tuned by the same distillation. tensorly-torch, torch-pruning: the",
    "method, carried over to Keras, not the PyTorch package. tfmot pruning: at the",
    "gzipped size of tfcompress; its zeros are multiplied as well, so its MACs stay.",
)


def run_cell(
    network: str,
    budget: float,
    method: str,
    seed: int,
    *,
    size: str,
    gzip_bytes: int | None,
) -> dict[str, Any]:
    """Compresses one network once and measures the files before and after."""
    data = dataset(size)
    model = trained(network, size=size, seed=seed, data=data)
    target = Budget(macs=budget)
    with tempfile.TemporaryDirectory() as folder:
        dense = export_tflite(model, Path(folder) / "dense.tflite")
        started = time.perf_counter()
        trial = Trial(
            model, data, target, EPOCHS[size], seed, file=dense, gzip_bytes=gzip_bytes
        )
        small = METHODS[method](trial)
        seconds = time.perf_counter() - started
        files = {
            "dense": dense,
            "small": export_tflite(small, Path(folder) / "small.tflite"),
        }
        return {
            **_costs(model, small),
            "target_met": target.met(model_cost(small), model_cost(model)),
            **_of_files(files, data),
            "seconds": seconds,
        }


def _costs(model: keras.Model, small: keras.Model) -> dict[str, float]:
    before, after = model_cost(model), model_cost(small)
    nonzero = [
        sum(np.count_nonzero(weight) for weight in one.get_weights())
        for one in (small, model)
    ]
    return {
        "macs": after.macs / before.macs,
        "params": after.params / before.params,
        "nonzero": float(nonzero[0] / nonzero[1]),
    }


def _of_files(files: dict[str, Path], data: Dataset) -> dict[str, Any]:
    """Accuracy, bytes and latency of the files themselves."""
    test = data.batches("test", 500)
    accuracy = {
        name: evaluate_tflite(path, test)["accuracy"] for name, path in files.items()
    }
    latency = measure_latency(
        files, runs=LATENCY_RUNS, num_threads=1, clock=steadiest_clock(1)
    )
    content = {name: path.read_bytes() for name, path in files.items()}
    return {
        "accuracy_before": accuracy["dense"],
        "accuracy": accuracy["small"],
        "dense_bytes": len(content["dense"]),
        "bytes": len(content["small"]),
        "dense_gzip_bytes": gzipped_size(content["dense"]),
        "gzip_bytes": gzipped_size(content["small"]),
        "latency": latency["small"].median_ms / latency["dense"].median_ms,
        "latency_ms": {name: one.to_dict() for name, one in latency.items()},
    }


def groups(
    cells: dict[str, dict[str, Any]], keys: list[tuple]
) -> dict[tuple, list[dict[str, Any]]]:
    """The cells there are, by network, budget and method: one for each seed."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for key in keys:
        if Cells.name(key) in cells:
            found.setdefault(key[:3], []).append(cells[Cells.name(key)])
    return found


def accuracies_before(found: dict[tuple, list[dict[str, Any]]]) -> dict[str, float]:
    """Mean test accuracy of the trained networks, in percent."""
    by_network: dict[str, list[float]] = {}
    for key, group in found.items():
        accuracies = [100 * cell["accuracy_before"] for cell in group]
        by_network.setdefault(key[0], []).extend(accuracies)
    return {name: float(np.mean(values)) for name, values in by_network.items()}


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """One table for each network and budget."""
    found = groups(cells, keys)
    lines = []
    for network, budget in itertools.product(NETWORKS, BUDGETS):
        methods = [m for m in METHODS if (network, budget, m) in found]
        if not methods:
            continue
        header = (f"{network}, {1 / budget:.0f}x fewer MACs", "points lost", "n")
        rows = [_row(method, found[network, budget, method]) for method in methods]
        lines += [
            *table((*header, "MACs", "weights", "gzipped KB", "gzip", "latency"), rows),
            "",
        ]
    for network, mean in accuracies_before(found).items():
        lines.append(f"{network} before: {mean:.2f} %")
    return [*lines, "", *NOTES]


def _row(method: str, group: list[dict[str, Any]]) -> tuple[Any, ...]:
    lost = [100 * (c["accuracy_before"] - c["accuracy"]) for c in group]
    gzipped = [c["gzip_bytes"] / c["dense_gzip_bytes"] for c in group]

    def mean(name: str) -> float:
        return float(np.mean([c[name] for c in group]))

    # Pruning of single weights has no MACs to save.
    missed = method != "tfmot pruning" and not all(c["target_met"] for c in group)
    return (
        f"{method} (budget missed)" if missed else method,
        f"{np.mean(lost):+.2f} ± {np.std(lost):.2f}",
        len(group),
        f"{mean('macs'):.3f}",
        f"{mean('nonzero'):.3f}",
        f"{mean('gzip_bytes') / 1024:.0f}",
        f"{np.mean(gzipped):.3f}",
        f"{mean('latency'):.3f}",
    )


def plot(cells: dict[str, dict[str, Any]], keys: list[tuple], path: Path) -> None:
    """Test accuracy over MACs and over latency, with error bars over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = groups(cells, keys)
    dense = accuracies_before(found)
    axes_of = {"macs": "MACs", "latency": "latency on one thread"}
    figure, axes = plt.subplots(
        len(NETWORKS), len(axes_of), figsize=(11, 8), sharey="row", squeeze=False
    )
    for axis, (network, (name, label)) in zip(
        axes.ravel(), itertools.product(NETWORKS, axes_of.items()), strict=True
    ):
        for method in METHODS:
            some = [found.get((network, b, method), []) for b in BUDGETS]
            some = [group for group in some if group]
            if some:
                x = [[c[name] for c in group] for group in some]
                y = [[100 * c["accuracy"] for c in group] for group in some]
                axis.errorbar(
                    [np.mean(values) for values in x],
                    [np.mean(values) for values in y],
                    xerr=[np.std(values) for values in x],
                    yerr=[np.std(values) for values in y],
                    marker="o",
                    capsize=3,
                    label=method,
                )
        if network in dense:
            axis.axhline(dense[network], color="gray", linestyle=":", label="dense")
            axis.legend(fontsize="small")
        axis.set_title(network)
        axis.set_xlabel(f"{label}, share of the original")
        axis.set_ylabel("test accuracy, %")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(EPOCHS), default="small")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="start no cell after")
    parser.add_argument("--report", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    keys = [
        (network, budget, method, seed)
        for seed, budget, network, method in itertools.product(
            range(arguments.seeds), BUDGETS, NETWORKS, METHODS
        )
    ]
    name = "peers" if arguments.size == "small" else f"peers_{arguments.size}"
    settings = {"epochs": EPOCHS[arguments.size], "latency_runs": LATENCY_RUNS}
    cells = Cells(RESULTS / f"{name}.json", settings=settings)

    def run(key: tuple) -> dict[str, Any]:
        keras.backend.clear_session()
        network, budget, _, seed = key
        ours = cells.found.get(Cells.name((network, budget, "tfcompress", seed)), {})
        return run_cell(*key, size=arguments.size, gzip_bytes=ours.get("gzip_bytes"))

    if not arguments.report:
        some = [key for key in keys if key[0] in arguments.networks]
        cells.run(some, run, minutes=arguments.minutes)
    write_table(name, summarize(cells.found, keys))
    plot(cells.found, keys, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
