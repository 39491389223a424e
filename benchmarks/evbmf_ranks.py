"""Does EVBMF find a rank that was planted, and does it on factors that were cut before?

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.evbmf_ranks  # half a minute

- "planted": matrices of known rank plus white noise. Their singular values run evenly
  from `strength` times the largest that the noise alone has, `sqrt(m) + sqrt(n)` of
  its standard deviations, to three times that.
- "truncated": 3x3 kernels of known channel ranks plus noise, `strength` as above for
  the weaker of both channel unfoldings. EVBMF gives the ranks of
  both channel unfoldings; Tucker-2 cuts the kernel to them; then EVBMF is asked again
  for the core, as in a second pass of MUSCO: once on the core alone, and once with the
  noise variance that was found on the untouched kernel.

No weights are trained here: the true rank of those nobody knows.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from benchmarks.cells import Cells, run_grid
from benchmarks.common import table
from tfcompress.linalg import evbmf_noise_variance, evbmf_rank, tucker2

NAME = "evbmf_ranks"
SHAPES = ((64, 576), (128, 1152), (256, 256))
RANKS = (8, 32)
STRENGTHS = (1.2, 2.0, 4.0)
CHANNELS = (64, 128)
NOTES = (
    "planted: ranks found, over the seeds. truncated: ranks of the two channel",
    "unfoldings, mean over the seeds: of the kernel, of its core asked alone, and of",
    "its core with the noise variance of the kernel.",
)


def with_noise(
    shape: tuple[int, int], rank: int, strength: float, random: np.random.Generator
) -> np.ndarray:
    """A matrix of that rank plus noise of variance 1.

    Args:
        shape: of the matrix.
        rank: of the signal.
        strength: its smallest singular value over the largest of the noise.
        random: where it comes from.
    """
    edge = np.sqrt(shape[0]) + np.sqrt(shape[1])
    sides = [np.linalg.qr(random.normal(size=(n, rank)))[0] for n in shape]
    values = edge * np.linspace(3.0 * strength, strength, rank)
    return sides[0] * values @ sides[1].T + random.normal(size=shape)


def planted(
    shape: tuple[int, int], rank: int, strength: float, seed: int
) -> dict[str, Any]:
    """The rank that EVBMF finds in one matrix."""
    matrix = with_noise(shape, rank, strength, np.random.default_rng(seed))
    values = np.linalg.svd(matrix, compute_uv=False)
    return {"planted": rank, "found": evbmf_rank(values, shape)}


def noisy_kernel(channels: int, rank: int, strength: float, seed: int) -> np.ndarray:
    """A 3x3 kernel `(taps, in, out)` of known channel ranks, plus noise."""
    random = np.random.default_rng(seed)
    core = random.normal(size=(9, rank, rank))
    weakest = min(_values(side).min() for side in _unfoldings(core))
    edge = np.sqrt(channels) + np.sqrt(9 * channels)
    core *= strength * edge / weakest
    bases = [np.linalg.qr(random.normal(size=(channels, rank)))[0] for _ in range(2)]
    signal = np.einsum("ci,tio,do->tcd", bases[0], core, bases[1])
    return signal + random.normal(size=signal.shape)


def truncated(channels: int, rank: int, strength: float, seed: int) -> dict[str, Any]:
    """Ranks of a kernel, and of its core after the kernel was cut to them."""
    kernel = noisy_kernel(channels, rank, strength, seed)
    sides = _unfoldings(kernel)
    noise = [evbmf_noise_variance(_values(side), side.shape) for side in sides]
    first = [evbmf_rank(_values(side), side.shape) for side in sides]
    core, _, _ = tucker2(kernel, (max(first[0], 1), max(first[1], 1)))
    cut = _unfoldings(np.asarray(core, np.float64))
    again = [evbmf_rank(_values(side), side.shape) for side in cut]
    kept = [
        evbmf_rank(_values(now), before.shape, noise_variance=variance)
        for now, before, variance in zip(cut, sides, noise, strict=True)
    ]
    return {"planted": rank, "first": first, "again": again, "kept": kept}


def _unfoldings(kernel: np.ndarray) -> list[np.ndarray]:
    """Of a kernel `(taps, in, out)`: by input and by output channels."""
    return [
        np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1) for axis in (1, 2)
    ]


def _values(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


def keys_of(seeds: int) -> list[tuple]:
    """All cells of both experiments."""
    found: list[tuple] = [
        ("planted", f"{shape[0]}x{shape[1]}", rank, strength, seed)
        for shape, rank, strength, seed in itertools.product(
            SHAPES, RANKS, STRENGTHS, range(seeds)
        )
    ]
    return found + [
        ("truncated", str(channels), rank, strength, seed)
        for channels, rank, strength, seed in itertools.product(
            CHANNELS, RANKS, STRENGTHS, range(seeds)
        )
    ]


def run_cell(kind: str, size: str, rank: int, strength: float, seed: int) -> Any:
    """One matrix or kernel."""
    if kind == "planted":
        rows, columns = map(int, size.split("x"))
        return planted((rows, columns), rank, strength, seed)
    return truncated(int(size), rank, strength, seed)


def summarize(cells: dict[str, dict[str, Any]], keys: list[tuple]) -> list[str]:
    """Both tables."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for key in keys:
        if Cells.name(key) in cells:
            groups.setdefault(key[:4], []).append(cells[Cells.name(key)])
    rows, cut = [], []
    for (kind, size, rank, strength), group in groups.items():
        if kind == "planted":
            found = ", ".join(str(cell["found"]) for cell in group)
            rows.append([size, rank, strength, found])
        else:
            means = [np.mean([c[n] for c in group], 0) for n in _STAGES]
            shown = [" x ".join(f"{value:.1f}" for value in mean) for mean in means]
            cut.append([f"3x3x{size}x{size}", rank, strength, *shown])
    lines = table(["planted", "rank", "strength", "found"], rows)
    header = ["truncated", "rank", "strength", "kernel", "core alone", "noise kept"]
    return [*lines, "", *table(header, cut), "", *NOTES]


_STAGES = ("first", "again", "kept")


def main() -> None:
    settings = {"noise": 1.0}
    run_grid(
        NAME, __doc__.splitlines()[0], keys_of, run_cell, summarize, settings=settings
    )


if __name__ == "__main__":
    main()
