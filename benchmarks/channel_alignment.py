"""Are convolutions of 28 or 32 channels faster than those of 27 or 31?

    python -m benchmarks.channel_alignment  # a minute

One convolution from c to c channels for each c from 24 to 40, 3x3 and 1x1, on images of
28x28 pixels, as float32 `.tflite` files. All files of a kernel size are timed in turn,
at batch 1 on one thread, by the processor's time. Time does not depend on values: they
are random.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras

from benchmarks.common import table, write_result
from tfcompress.deploy import export_tflite, measure_latency
from tfcompress.deploy.latency import steadiest_clock

NAME = "channel_alignment"
CHANNELS = range(24, 41)
KERNELS = (3, 1)
PIXELS = 28
NOTES = (
    "Median times in microseconds and their quartiles; per channel: the median over",
    "the squared number of channels, relative to that of 32 channels.",
)


def convolution(channels: int, kernel: int) -> keras.Model:
    """A network of nothing but this convolution."""
    shape = (PIXELS, PIXELS, channels)
    layer = keras.layers.Conv2D(channels, kernel, padding="same")
    return keras.Sequential([keras.Input(shape), layer])


def measure(kernel: int, *, runs: int, seed: int = 0) -> list[dict[str, Any]]:
    """Times of all channel counts, taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = {
            str(channels): export_tflite(
                convolution(channels, kernel), Path(folder) / f"{channels}.tflite"
            )
            for channels in CHANNELS
        }
        found = measure_latency(
            files, runs=runs, num_threads=1, clock=steadiest_clock(1), seed=seed
        )
    return [
        {"kernel": kernel, "channels": int(name), **latency.to_dict()}
        for name, latency in found.items()
    ]


def report(rows: list[dict[str, Any]]) -> list[str]:
    """The table."""

    def per_channel(row: dict[str, Any]) -> float:
        return row["median_ms"] / row["channels"] ** 2

    usual = {row["kernel"]: per_channel(row) for row in rows if row["channels"] == 32}
    shown = [
        [
            f"{row['kernel']}x{row['kernel']}, {row['channels']} channels",
            f"{1e3 * row['median_ms']:.1f}",
            f"{1e3 * row['q1_ms']:.1f} to {1e3 * row['q3_ms']:.1f}",
            f"{per_channel(row) / usual[row['kernel']]:.2f}",
        ]
        for row in rows
    ]
    return [
        *table(["convolution", "us", "quartiles", "per channel"], shown),
        "",
        *NOTES,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    rows = [row for kernel in KERNELS for row in measure(kernel, runs=arguments.runs)]
    write_result(NAME, rows, report(rows))


if __name__ == "__main__":
    main()
