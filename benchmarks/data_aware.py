"""Factors that know the data against factors that know only the weights.

    python -m benchmarks.data_aware

Networks trained on Fashion-MNIST are factorized at the same ranks with plain,
data-aware and asymmetric data-aware factors, and tested without any fine-tuning, with
and without recalibrated batch norm. The ranks are those of `Energy`, which knows
nothing of data; the last lines are `Budgeted`, which does, at the same budgets.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from benchmarks.cells import Cells, grid_parser
from benchmarks.common import RESULTS, table, write_table
from benchmarks.networks import BATCH_SIZE, dataset, trained
from tfcompress.cost import layer_specs
from tfcompress.distill import evaluate
from tfcompress.ranks import Budget, Budgeted, Energy
from tfcompress.sensitivity import measure_sensitivity
from tfcompress.statistics import collect_moments, factorize_on_data
from tfcompress.surgery import factorize, recalibrate_batch_norm

BUDGETS = (0.75, 0.5, 0.25)
NETWORKS = ("resnet", "vgg")
FACTORS = ("plain", "data-aware", "asymmetric")
STEPS = 16


def run_cell(network: str, budget: float, seed: int, size: str) -> dict[str, Any]:
    """Test accuracies of one network at one budget."""
    data = dataset(size)
    model = trained(network, size=size, seed=seed, data=data)
    calibration = data.batches("train", BATCH_SIZE, shuffle_seed=seed).take(STEPS)
    calibration = calibration.cache()
    test = data.batches("test", 500)
    specs = layer_specs(model)
    moments = collect_moments(model, calibration, steps=STEPS)
    curves = measure_sensitivity(model, calibration, moments=moments)
    scores = {
        path: {"moments": moments[path], "sensitivity": curves.get(path)}
        for path in moments
    }
    plans = {
        "Energy": Energy().select(specs, Budget(macs=budget)),
        "Budgeted": Budgeted().select(specs, Budget(macs=budget), scores),
    }
    found: dict[str, Any] = {"before": evaluate(model, test)["accuracy"]}
    for (ranks, plan), factors in itertools.product(plans.items(), FACTORS):
        choices = plan.choices()
        if factors == "plain":
            new = factorize(model, choices)
        elif factors == "data-aware":
            new = factorize(model, choices, moments)
        else:
            new = factorize_on_data(
                model, choices, calibration, steps=STEPS, asymmetric=True
            )
        recalibrated = recalibrate_batch_norm(new, calibration, steps=STEPS)
        found[f"{ranks}, {factors}"] = {
            "macs": plan.after.macs / plan.dense.macs,
            "accuracy": evaluate(new, test)["accuracy"],
            "recalibrated": evaluate(recalibrated, test)["accuracy"],
        }
    return found


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table: points of test accuracy lost, mean and standard deviation."""
    lines = []
    for network, stage in itertools.product(NETWORKS, ("accuracy", "recalibrated")):
        title = "as factorized" if stage == "accuracy" else "batch norm recalibrated"
        rows = []
        for ranks, factors in itertools.product(("Energy", "Budgeted"), FACTORS):
            row = [f"{ranks}, {factors}"]
            for budget in BUDGETS:
                lost = [
                    100 * (c["before"] - c[f"{ranks}, {factors}"][stage])
                    for c in (cells.get(Cells.name(k)) for k in keys)
                    if c and c["network"] == network and c["budget"] == budget
                ]
                entry = f"{np.mean(lost):.2f} ± {np.std(lost):.2f}" if lost else "-"
                row.append(entry)
            rows.append(row)
        header = [f"{network}, {title}", *(f"{1 / b:.3g}x fewer MACs" for b in BUDGETS)]
        lines += [*table(header, rows), ""]
    return [*lines, "Points of test accuracy lost without fine-tuning, over the seeds."]


def main() -> None:
    parser = grid_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("small", "full"), default="small")
    arguments = parser.parse_args()
    keys = list(itertools.product(NETWORKS, BUDGETS, range(arguments.seeds)))
    name = "data_aware" + ("" if arguments.size == "small" else "_full")
    cells = Cells(RESULTS / f"{name}.json", settings={"steps": STEPS})

    def run(key: tuple) -> dict[str, Any]:
        keras.backend.clear_session()
        network, budget, seed = key
        found = run_cell(network, budget, seed, arguments.size)
        return {"network": network, "budget": budget, **found}

    if not arguments.report:
        cells.run(keys, run, minutes=arguments.minutes, backwards=arguments.backwards)
    write_table(name, summarize(cells.found, keys))


if __name__ == "__main__":
    main()
