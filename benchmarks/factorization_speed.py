"""How fast is Tucker-2? Against TensorLy, on the kernels of VGG16 and ResNet50.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.factorization_speed  # some 10 minutes

The 13 convolutions of VGG16 and the 16 3x3 convolutions of ResNet50, each at half of
its input and output channels: `tfcompress.linalg.tucker2` and
`tensorly.decomposition.partial_tucker` on the same float32 arrays, in turn, in one
process. Shapes are the networks' own, values are made here:

- white: independent normal values, the flattest spectrum there is and so the hardest
  case: iterations converge slowest.
- decaying: white values whose channel modes were scaled by exp(-1.6 i / n) in a random
  orthonormal basis each. Singular values of the unfoldings then run from 1.8 over 0.8
  to 0.37 of their root mean square; in 3x3 kernels of a trained detector (YOLOv8n, 64
  to 256 channels) they ran from 2.3 over 0.8 to 0.35.

Ours is compared with TensorLy's defaults and with its fastest setting of the same
quality: the one of `SETTINGS` that takes least time over the whole network among those
whose error is at most 0.5 % above ours. The error of a network is the root mean square
of its kernels' relative errors. `svd="symeig_svd"` is left out: it decomposes the long
side of an unfolding, 4608 x 4608 for 512 channels, and takes longer than the defaults.

Time is told by the wall clock and by the process's CPU time. With one BLAS thread the
two agree on an idle machine; on a shared one CPU time is what the work costs. Targets
are judged by CPU time with one thread, by the wall clock with several. Ours is the
median over all of a kernel's turns, TensorLy's over `--repeats`, both after a warm-up.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
from tensorly.decomposition import partial_tucker

from benchmarks.cells import Cells
from benchmarks.common import RESULTS, table, write_table
from tfcompress.linalg import truncated_svd, tucker2, tucker2_to_tensor

NAME = "factorization_speed"
NETWORKS = {
    "VGG16": [
        *((3, 64), (64, 64), (64, 128), (128, 128), (128, 256)),
        *((256, 256), (256, 256), (256, 512)),
        *[(512, 512)] * 5,
    ],
    "ResNet50": [
        *[(64, 64)] * 3,
        *[(128, 128)] * 4,
        *[(256, 256)] * 6,
        *[(512, 512)] * 3,
    ],
}
DENSE = {"VGG16": [(25088, 4096), (4096, 4096), (4096, 1000)]}
SPECTRA = ("white", "decaying")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"svd, {n} iterations": {"n_iter_max": n} for n in (0, 1, 2)},
    "svd, tol 1e-3": {"tol": 1e-3},
    **{
        f"randomized svd, {n} iterations": {"svd": "randomized_svd", "n_iter_max": n}
        for n in (0, 1, 2)
    },
    **{
        f"random, {n} iterations": {"init": "random", "n_iter_max": n}
        for n in (1, 2, 3, 4)
    },
    "random, tol 1e-3": {"init": "random", "tol": 1e-3},
}
DEFAULT = "default"
QUALITY = 1.005
TARGETS = {"default": 50.0, "fastest": 5.0}


def kernel(spectrum: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A float32 kernel `(3, 3, in, out)` of norm 1; see the module for its spectra."""
    rng = np.random.default_rng(seed)
    tensor = rng.normal(size=(9, *shape))
    if spectrum == "decaying":
        tensor = tucker2_to_tensor(tensor, *(_mixing(n, rng) for n in shape))
    tensor /= np.linalg.norm(tensor)
    return tensor.reshape(3, 3, *shape).astype(np.float32)


def _mixing(size: int, rng: np.random.Generator) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return basis * np.exp(-1.6 * np.arange(size) / size)


def relative_error(
    tensor: np.ndarray, core: np.ndarray, u_in: np.ndarray, u_out: np.ndarray
) -> float:
    """Of the decomposition of a kernel `(3, 3, in, out)`, in float64."""
    parts = (part.astype(np.float64) for part in (core, u_in, u_out))
    lost = tensor - tucker2_to_tensor(*parts).reshape(tensor.shape)
    return float(np.linalg.norm(lost))


def seconds(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What a function returns, with its wall clock and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def _summary(times: Iterable[tuple[float, float]], error: float) -> dict[str, float]:
    wall, cpu = np.median(list(times), axis=0)
    return {"wall": float(wall), "cpu": float(cpu), "error": error}


def measure(
    tensor: np.ndarray, settings: Iterable[str], *, repeats: int
) -> dict[str, Any]:
    """Times ours and TensorLy's settings on one kernel, one after the other.

    Args:
        tensor: kernel `(3, 3, in, out)` of norm 1.
        settings: names of `SETTINGS`.
        repeats: timed calls of every setting; of ours, as many for each of them.

    Returns:
        "shape", and by "ours" and by the settings' names wall clock and CPU seconds
        and the relative error.
    """
    ranks = [max(size // 2, 1) for size in tensor.shape[2:]]
    taps = tensor.reshape(9, *tensor.shape[2:])

    def ours() -> Any:
        return tucker2(taps, ranks)

    def theirs(name: str) -> Any:
        return partial_tucker(
            tensor, rank=ranks, modes=[2, 3], random_state=0, **SETTINGS[name]
        )

    parts = ours()
    own_times = []
    rows = {}
    for name in settings:
        times = []
        for _ in range(repeats):
            own_times.append(seconds(ours)[1])
            ((core, factors), _), spent = seconds(lambda name=name: theirs(name))
            times.append(spent)
        rows[name] = _summary(times, relative_error(tensor, core, *factors))
    own = _summary(own_times, relative_error(tensor, *parts))
    return {"shape": list(tensor.shape[2:]), "ours": own, **rows}


def measure_dense(shape: tuple[int, int]) -> dict[str, Any]:
    """Times our truncated SVD of a white matrix at half of its short side."""
    matrix = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    _, spent = seconds(lambda: truncated_svd(matrix, min(shape) // 2))
    return {"shape": list(shape), "wall": spent[0], "cpu": spent[1]}


def total(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Seconds of a whole network, and the root mean square of the errors."""
    return {
        "wall": sum(row[name]["wall"] for row in rows),
        "cpu": sum(row[name]["cpu"] for row in rows),
        "error": float(np.sqrt(np.mean([row[name]["error"] ** 2 for row in rows]))),
    }


def fastest(rows: list[dict[str, Any]], settings: Iterable[str], clock: str) -> str:
    """The fastest setting of the same quality as ours; the default at worst."""
    limit = QUALITY * total(rows, "ours")["error"]
    totals = {name: total(rows, name) for name in settings}
    good = [name for name in totals if totals[name]["error"] <= limit]
    return min(good, key=lambda name: totals[name][clock], default=DEFAULT)


def _layer_lines(
    rows: list[dict[str, Any]], best: str, settings: list[str], clock: str
) -> list[str]:
    def cells(first: str, get: Callable[[str], dict[str, float]]) -> list[str]:
        own, default, other = get("ours"), get(DEFAULT), get(best)
        return [
            first,
            *(f"{1e3 * one[clock]:.1f}" for one in (own, default, other)),
            *(f"{one[clock] / own[clock]:.0f}x" for one in (default, other)),
            *(f"{one['error']:.4f}" for one in (own, default, other)),
            f"{100 * (own['error'] / default['error'] - 1):+.2f} %",
        ]

    header = [f"kernel ({clock}, ms)", "ours", "default", "fastest", *["ratio"] * 2]
    header += ["error: ours", "default", "fastest", "to default"]
    body = [
        cells("{}x{}".format(*row["shape"]), lambda name, row=row: row[name])
        for row in rows
    ]
    lines = table(header, [*body, cells("all", lambda name: total(rows, name))])
    summary = [
        [name, *(f"{one[k]:.3f}" for k in ("wall", "cpu")), f"{one['error']:.4f}"]
        for name in ("ours", *settings)
        for one in [total(rows, name)]
    ]
    header = ["setting, whole network", "wall (s)", "cpu (s)", "error"]
    return [*lines, "", *table(header, summary)]


def _verdicts(rows: list[dict[str, Any]], best: str, clock: str) -> list[str]:
    own, lines = total(rows, "ours"), []
    for target, name in (("default", DEFAULT), ("fastest", best)):
        other = total(rows, name)
        ratio = other[clock] / own[clock]
        lines.append(
            f"{'met' if ratio >= TARGETS[target] else 'MISSED'}: {ratio:.1f} times as "
            f"fast as {target} ({name}; wall clock {other['wall'] / own['wall']:.1f}), "
            f"target {TARGETS[target]:.0f}"
        )
    excess = own["error"] / total(rows, DEFAULT)["error"]
    met = "met" if excess <= QUALITY else "MISSED"
    return [
        *lines,
        f"{met}: error {100 * (excess - 1):+.2f} % to default, target 0.5 %",
    ]


def report(
    cells: dict[str, dict[str, Any]], settings: list[str], clock: str
) -> list[str]:
    """Lines of the report on all whole networks that were measured."""
    lines = []
    for spectrum in SPECTRA:
        for network, shapes in NETWORKS.items():
            names = [
                Cells.name((spectrum, network, i, *shape))
                for i, shape in enumerate(shapes)
            ]
            if not all(name in cells for name in names):
                continue
            rows = [cells[name] for name in names]
            best = fastest(rows, settings, clock)
            lines += [f"{network}, {spectrum}; fastest of the same quality: {best}", ""]
            lines += [*_layer_lines(rows, best, settings, clock), ""]
            lines += [*_verdicts(rows, best, clock), "", ""]
    rows = [cell for name, cell in cells.items() if name.startswith("dense")]
    body = [
        ["{}x{}".format(*row["shape"]), *(f"{row[k]:.1f}" for k in ("wall", "cpu"))]
        for row in rows
    ]
    header = ["truncated SVD at half rank", "wall (s)", "cpu (s)"]
    return [*lines, *(table(header, body) if rows else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--repeats", type=int, default=1, help="calls of TensorLy")
    parser.add_argument("--name", default=NAME, help="of the files with the results")
    options = parser.parse_args()
    settings = list(dict.fromkeys([DEFAULT, *options.settings]))
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    clock = "cpu" if threads == "1" else "wall"
    # Ranks beyond the rank of an unfolding (three input channels) are meant.
    warnings.filterwarnings(
        "ignore", message="Trying to compute SVD", module="tensorly"
    )
    cells = Cells(
        RESULTS / f"{options.name}.json",
        settings={
            "OPENBLAS_NUM_THREADS": threads,
            "tensorly": version("tensorly"),
            "repeats": options.repeats,
            "settings": settings,
        },
    )

    def run(key: Any) -> dict[str, Any]:
        kind, network, index, *shape = key
        if kind == "dense":
            return measure_dense(shape)
        return measure(
            kernel(kind, tuple(shape), seed=index), settings, repeats=options.repeats
        )

    measure(kernel("white", (64, 64), seed=0), settings, repeats=1)  # warm-up
    keys = [
        (kind, network, index, *shape)
        for network in options.networks
        for kind, shapes in (
            *((kind, NETWORKS[network]) for kind in SPECTRA),
            ("dense", DENSE.get(network, [])),
        )
        for index, shape in enumerate(shapes)
    ]
    cells.run(keys, run)
    head = f"OPENBLAS_NUM_THREADS={threads}, tensorly {version('tensorly')}"
    write_table(options.name, [head, "", *report(cells.found, settings, clock)])


if __name__ == "__main__":
    main()
