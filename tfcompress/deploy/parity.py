"""Does an exported model compute what the Keras model does?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress.deploy.forms import ExportError
from tfcompress.deploy.interface import Interface

_BATCH = 2
# For sizes that a model leaves open, such as those of images.
_FREE_SIZE = 64


def example_inputs(interface: Interface, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: floats from 0 to 1, whole numbers 0 or 1, empty strings.

    Args:
        interface: names, shapes and dtypes; a free batch is 2, other free sizes 64.
        seed: of the values.
    """
    random = np.random.default_rng(seed)
    found = {}
    for name, spec in interface.specs.items():
        batch, *rest = spec.shape.as_list()
        shape = (batch or _BATCH, *(size or _FREE_SIZE for size in rest))
        if spec.dtype == tf.string:
            found[name] = np.full(shape, "", object)
        elif spec.dtype.is_floating:
            found[name] = random.random(shape).astype(spec.dtype.as_numpy_dtype)
        else:
            found[name] = random.integers(0, 2, shape).astype(spec.dtype.as_numpy_dtype)
    return found


def check_parity(
    name: str,
    interface: Interface,
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
    *,
    tolerance: float = 1e-3,
) -> None:
    """Raises unless an exported model gives the outputs of the Keras model.

    Args:
        name: what the error calls the exported model.
        interface: how the Keras model is called.
        run: calls the exported model, outputs by name.
        tolerance: largest difference, relative to the largest output.

    Raises:
        ExportError: an output is missing or differs, or the exported model does not
            run.
    """
    feeds = example_inputs(interface)
    wanted = interface.call({key: tf.constant(value) for key, value in feeds.items()})
    try:
        found = run(feeds)
    # Runtimes raise what they like, and a model that does not run is of no use.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"The export '{name}' does not run: {first[:300]}") from error
    if set(found) != set(wanted):
        raise ExportError(
            f"The export '{name}' has the outputs {sorted(found)}, the model "
            f"{sorted(wanted)}."
        )
    for key, value in wanted.items():
        expected = np.asarray(tf.cast(value, tf.float32))
        got = np.asarray(found[key]).astype("float32")
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
        gap = (
            float(np.abs(got - expected).max(initial=0.0)) / scale
            if got.shape == expected.shape
            else np.inf
        )
        if not gap <= tolerance:
            raise ExportError(
                f"The export '{name}' computes something else than the model: output "
                f"'{key}' has shape {got.shape} and differs by {gap:.2g} of the "
                f"largest value, more than {tolerance:g}."
            )
