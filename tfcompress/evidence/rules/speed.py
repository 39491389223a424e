"""Rules on time: MACs against latency, channel alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tfcompress.evidence.verdict import Comparison, Verdict, by_majority

# Standard error of a median of normal values, over their standard deviation and the
# root of their number; and quartiles apart, over the standard deviation.
_MEDIAN_ERROR = 1.2533
_QUARTILES = 1.349

_ALIGNED = 4

DELIVERED_TEXT = (
    "The measured speedup over the ratio of MACs, for every network, selector and "
    "number of threads: it counts for the claim if it is below one by more than its "
    "standard error, which comes from the quartiles of the timed runs."
)
ALIGNMENT_TEXT = (
    "A convolution whose number of channels is no multiple of four against the next "
    "larger one whose is, which multiplies more: it counts for the claim if the former "
    "is slower by more than the standard error, which comes from the quartiles."
)


def median_error(row: Mapping[str, Any]) -> float:
    """Standard error of a measured median time, in milliseconds."""
    deviation = (row["q3_ms"] - row["q1_ms"]) / _QUARTILES
    return _MEDIAN_ERROR * deviation / math.sqrt(row["runs"])


def delivered(document: Mapping[str, Any]) -> Verdict:
    """Does less of the saving arrive as time than as MACs?"""
    found = []
    for row in document["data"]:
        relative = [
            median_error(row[side]) / row[side]["median_ms"]
            for side in ("dense", "factorized")
        ]
        error = row["delivered"] * math.hypot(*relative)
        label = f"{row['network']}, {row['selector']}, {row['num_threads']} threads"
        found.append(Comparison(label, 1.0 - row["delivered"], error))
    return by_majority(found, unit="of the saving lost")


def alignment(document: Mapping[str, Any]) -> Verdict:
    """Are channel numbers that are no multiple of four slower than the next that is?"""
    times = {(row["kernel"], row["channels"]): row for row in document["data"]}
    found = []
    for (kernel, channels), row in times.items():
        aligned = times.get((kernel, -(-channels // _ALIGNED) * _ALIGNED))
        if aligned is None or aligned is row:
            continue
        error = math.hypot(median_error(row), median_error(aligned))
        value = row["median_ms"] - aligned["median_ms"]
        scale = aligned["median_ms"]
        label = f"{kernel}x{kernel}, {channels} against {aligned['channels']} channels"
        found.append(Comparison(label, value / scale, error / scale))
    return by_majority(found, unit="% slower", scale=100.0, note=_steepest(times))


def _steepest(times: Mapping[tuple[int, int], Mapping[str, Any]]) -> str:
    """Where one more channel costs most."""
    steps = [
        (times[kernel, channels + 1]["median_ms"] / row["median_ms"], kernel, channels)
        for (kernel, channels), row in times.items()
        if (kernel, channels + 1) in times
    ]
    if not steps:
        return ""
    ratio, kernel, channels = max(steps)
    return (
        f"One more channel costs most from {channels} to {channels + 1} "
        f"({kernel}x{kernel}): {ratio:.2f} times the time."
    )
