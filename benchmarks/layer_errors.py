"""Does the error of a layer's weights tell what it costs the network?

    python -m benchmarks.layer_errors  # two minutes

One layer of a network trained on digits is approximated at a time, by every type and at
several shares of its ranks; the relative error of its weights, that of its outputs, and
the divergence of the network's outputs from before are noted, without fine-tuning. How
well an error tells the order of the divergences is Kendall's tau, as in Schuurmans et
al. 2023:

- across decompositions: of one layer, over types and ranks;
- across layers: at one type and one share of the ranks, over layers;
- all: over everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import scipy.stats
import tensorflow as tf

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from benchmarks.digits_networks import BATCH_SIZE, digits, digits_network
from tfcompress.distill import output_divergence
from tfcompress.layers import kernel_of, kernel_shape_of, registry
from tfcompress.statistics import collect_moments
from tfcompress.surgery import copy_model
from tfcompress.trace import leaves

NAME = "layer_errors"
TYPES = ("Tucker2Conv2D", "SpatialSVDConv2D", "ChannelSVDConv2D")
SHARES = (0.25, 0.5, 0.75)
STEPS = 8
ERRORS = {"weights": 3, "outputs": 4}
NOTES = (
    "Kendall's tau with the divergence: mean and standard deviation over the seeds.",
)


def choices_of(seed: int) -> list[list[Any]]:
    """`[layer, type, share, error of weights, of outputs, divergence]` of each."""
    data = digits()
    model = digits_network(seed, data)
    train = data.batches("train", BATCH_SIZE, shuffle_seed=seed)
    moments = collect_moments(model, train, steps=STEPS)
    images = next(iter(data.batches("validation", 500)))[0]
    expected = model(images, training=False)
    probe = copy_model(model)
    forward = tf.function(lambda x: probe(x, training=False))
    found = []
    for path, layer in leaves(probe):
        if not isinstance(layer, keras.layers.Conv2D) or layer.kernel_size == (1, 1):
            continue
        kernel, weight = kernel_of(layer), layer.kernel
        kept = keras.ops.convert_to_numpy(weight)
        for name, share in itertools.product(TYPES, SHARES):
            cls = registry.get(name)
            if name not in registry.options(layer)[0]:
                continue
            largest = cls.max_ranks(kernel_shape_of(layer))
            ranks = tuple(max(round(share * most), 1) for most in largest)
            seen = cls.metric(layer, moments[path])
            errors = [float(cls.errors(kernel, [ranks], m)[0]) for m in (None, seen)]
            weight.assign(cls.from_layer(layer, ranks).kernel().reshape(kept.shape))
            lost = float(output_divergence(expected, forward(images)))
            weight.assign(kept)
            found.append([path, name, share, *errors, lost])
    return found


def correlations(choices: list[list[Any]], error: str) -> dict[str, float]:
    """Kendall's tau of one kind of error, in the three ways of grouping."""

    def tau(group: Iterable[list[Any]]) -> float:
        rows = list(group)
        first, second = ([row[place] for row in rows] for place in (ERRORS[error], 5))
        return float(scipy.stats.kendalltau(first, second).statistic)

    def mean(key: Callable[[list[Any]], Any]) -> float:
        ordered = sorted(choices, key=key)
        return float(np.mean([tau(g) for _, g in itertools.groupby(ordered, key)]))

    return {
        "across decompositions": mean(lambda row: row[0]),
        "across layers": mean(lambda row: row[1:3]),
        "all": tau(choices),
    }


def run_cell(seed: int) -> dict[str, Any]:
    """One network."""
    choices = choices_of(seed)
    return {
        "choices": choices,
        **{error: correlations(choices, error) for error in ERRORS},
    }


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """The table."""
    found = [cells[name] for name in map(Cells.name, keys) if name in cells]
    header = ["error of the", "across decompositions", "across layers", "all"]
    rows = []
    for error in ERRORS:
        row = [error]
        for kind in header[1:]:
            values = [cell[error][kind] for cell in found]
            row.append(f"{np.mean(values):.2f} ± {np.std(values):.2f}")
        rows.append(row)
    return [*table(header, rows), "", *NOTES]


def keys_of(seeds: int) -> list[tuple[int]]:
    """All cells, in the order to run them."""
    return [(seed,) for seed in range(seeds)]


def main() -> None:
    settings = {"steps": STEPS}
    run_grid(
        NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings=settings
    )


if __name__ == "__main__":
    main()
