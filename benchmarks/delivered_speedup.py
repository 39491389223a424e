"""How much of a saving in MACs arrives as time of the `.tflite` file.

    python -m benchmarks.delivered_speedup  # half an hour, and nothing else running

Networks are factorized to a quarter of their MACs; the dense and the factorized file
are timed in turns, at batch 1. "fixed" is plain Tucker-2 at one fraction of all ranks,
"budgeted" the allocator of `compress`. `delivered` is the speedup over the ratio of
MACs: 1 where time falls as MACs do. A table of single layers tells where it is lost.
Time does not depend on weights: they are random.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from benchmarks.common import RESULTS, table, write_result
from tfcompress import models, ranks
from tfcompress.cost import layer_specs
from tfcompress.deploy import LatencyTable, export_tflite, measure_latency
from tfcompress.deploy.latency import steadiest_clock
from tfcompress.ranks import Budget, Plan
from tfcompress.spec import LayerSpec
from tfcompress.surgery import factorize

NAME = "delivered_speedup"

NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "resnet20-16": lambda: models.resnet((32, 32, 3), 10, depth=20, width=16),
    "resnet20-64": lambda: models.resnet((32, 32, 3), 10, depth=20, width=64),
    "vgg-64": lambda: models.vgg((32, 32, 3), 10, width=64),
    "mobilenet_v2": lambda: keras.applications.MobileNetV2(weights=None),
    "resnet50": lambda: keras.applications.ResNet50(weights=None),
}

# Options that let a selector aim at a budget, where its own are for another aim.
OPTIONS: dict[str, dict[str, Any]] = {"vbmf": {"weakening": None}}

# Layers in the printed table; the JSON has all of them.
SHOWN = 6


def plan_for(selector: str, specs: Sequence[LayerSpec], budget: Budget) -> Plan:
    """A plan by a selector's name; "fixed" takes one fraction for all layers."""
    if selector == "fixed":
        return fixed_fraction(specs, budget)
    cls = getattr(ranks, ranks.SELECTORS[selector])
    return cls(**OPTIONS.get(selector, {})).select(specs, budget)


def fixed_fraction(specs: Sequence[LayerSpec], budget: Budget) -> Plan:
    """Plain Tucker-2: the largest fraction of all ranks, in steps of 1/64, that fits.

    1×1 convolutions and dense layers become pairs of factors.
    """
    for step in range(63, 0, -1):
        plan = ranks.Fixed(ranks={"*": step / 64}).select(specs, budget)
        if plan.met:
            break
    # The smallest fraction may miss the budget.
    return plan


def compare(
    model: keras.Model, plan: Plan, latency: LatencyTable, *, runs: int
) -> dict[str, Any]:
    """Both files against each other, and layer by layer, on the table's threads."""
    small = factorize(model, plan.choices())
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: export_tflite(one, Path(folder) / f"{name}.tflite")
            for name, one in (("dense", model), ("factorized", small))
        }
        measured = measure_latency(
            files,
            runs=runs,
            num_threads=latency.num_threads,
            clock=steadiest_clock(latency.num_threads),
        )
    mac_ratio = plan.dense.macs / plan.after.macs
    speedup = measured["dense"].median_ms / measured["factorized"].median_ms
    checks = {"dense": latency.check(model), "factorized": latency.check(small)}
    return {
        "num_threads": latency.num_threads,
        "clock": steadiest_clock(latency.num_threads),
        "dense": measured["dense"].to_dict(),
        "factorized": measured["factorized"].to_dict(),
        "mac_ratio": mac_ratio,
        "speedup": speedup,
        "delivered": speedup / mac_ratio,
        "layers": layers_of(model, plan, latency),
        "sums": {
            name: {"whole_ms": c.whole_ms, "layers_ms": c.layers_ms, "gap": c.gap}
            for name, c in checks.items()
        },
    }


def layers_of(
    model: keras.Model, plan: Plan, latency: LatencyTable
) -> list[dict[str, Any]]:
    """Every factorized layer with its times, the one that loses most first."""
    specs = {spec.name: spec for spec in layer_specs(model)}
    choices = plan.choices()
    latency.measure(
        [(specs[name], None, None) for name in choices]
        + [(specs[name], *choice) for name, choice in choices.items()]
    )
    rows = []
    for row in plan.rows:
        if not row.changed:
            continue
        dense = latency.of(specs[row.name])
        after = latency.of(specs[row.name], row.layer_type, row.ranks)
        promised = dense * row.after.macs / row.dense.macs
        rows.append(
            {
                "layer": row.name,
                "type": row.layer_type,
                "ranks": list(row.ranks),
                "mac_ratio": row.dense.macs / row.after.macs,
                "dense_ms": dense,
                "factorized_ms": after,
                "delivered": promised / after,
                "lost_ms": after - promised,
            }
        )
    return sorted(rows, key=lambda one: -one["lost_ms"])


def run(
    networks: Sequence[str],
    selectors: Sequence[str],
    *,
    macs: float,
    threads: Sequence[int],
    runs: int,
    cache: Path | None,
) -> list[dict[str, Any]]:
    """The figures of every network by every selector on every number of threads."""
    results = []
    for name in networks:
        print(f"{name}: planning and factorizing", file=sys.stderr)
        model = NETWORKS[name]()
        for selector, num_threads in itertools.product(selectors, threads):
            plan = plan_for(selector, layer_specs(model), Budget(macs=macs))
            print(f"{name}: {selector}, {num_threads} thread(s)", file=sys.stderr)
            latency = LatencyTable(cache, num_threads=num_threads)
            figures = compare(model, plan, latency, runs=runs)
            head = {"network": name, "selector": selector, "met": plan.met}
            results.append(head | figures)
        keras.backend.clear_session()
    return results


def report(results: Sequence[dict[str, Any]]) -> list[str]:
    """The summary, then for each network where time is lost."""
    header = (
        "network",
        "selector",
        "threads",
        "dense ms",
        "factorized ms",
        "MACs",
        "speedup",
    )
    lines = table(
        (*header, "delivered", "gap dense", "gap factorized"),
        [
            (
                one["network"],
                one["selector"],
                one["num_threads"],
                f"{one['dense']['median_ms']:.2f}",
                f"{one['factorized']['median_ms']:.2f}",
                f"{one['mac_ratio']:.2f}x",
                f"{one['speedup']:.2f}x",
                f"{one['delivered']:.2f}",
                f"{100 * one['sums']['dense']['gap']:.1f}%",
                f"{100 * one['sums']['factorized']['gap']:.1f}%",
            )
            for one in results
        ],
    )
    lines += [
        "",
        "Median times; delivered = speedup / ratio of MACs; gap = the part of the",
        "whole model's time that the sum of its layers leaves over. One thread:",
        "processor time; more: elapsed time.",
    ]
    for one in results:
        threads = f"{one['num_threads']} thread{'s' if one['num_threads'] > 1 else ''}"
        lost = sum(row["lost_ms"] for row in one["layers"])
        lines += [
            "",
            f"{one['network']}, {threads}: {len(one['layers'])} layers factorized by "
            f"{one['selector']}, {lost:.2f} ms more than their MACs promise; most in",
            *table(
                ("layer", "type", "ranks", "MACs", "dense ms", "now ms", "lost ms"),
                [
                    (
                        row["layer"],
                        row["type"],
                        "x".join(map(str, row["ranks"])),
                        f"{row['mac_ratio']:.2f}x",
                        f"{row['dense_ms']:.3f}",
                        f"{row['factorized_ms']:.3f}",
                        f"{row['lost_ms']:.3f}",
                    )
                    for row in one["layers"][:SHOWN]
                ],
            ),
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument(
        "--selectors",
        nargs="+",
        choices=sorted(ranks.SELECTORS),
        default=["fixed", "budgeted"],
    )
    parser.add_argument("--macs", type=float, default=0.25, help="fraction to keep")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=50, help="samples of each file")
    parser.add_argument("--cache", type=Path, help="file that keeps layer times")
    parser.add_argument("--results", type=Path, default=RESULTS, help="output folder")
    options = parser.parse_args()
    results = run(
        options.networks,
        options.selectors,
        macs=options.macs,
        threads=options.threads,
        runs=options.runs,
        cache=options.cache,
    )
    write_result(NAME, results, report(results), folder=options.results)


if __name__ == "__main__":
    main()
