"""Factorized convolutions as tensorly-torch makes them, in Keras.

`FactorizedConv.from_conv(conv, rank=fraction, factorization="tucker",
fixed_rank_modes="spatial")`: TensorLy turns the fraction of a layer's parameters into
ranks, and its Tucker decomposition gives the factors.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from tensorly.decomposition import partial_tucker
from tensorly.tucker_tensor import validate_tucker_rank

from tfcompress.cost import layer_specs
from tfcompress.layers import kernel_shape_of
from tfcompress.ranks import Budget, Fixed, Plan
from tfcompress.surgery import factorize
from tfcompress.trace import leaves

# Fractions that are tried, from the largest.
_STEPS = 64


def tucker_ranks(kernel_shape: tuple[int, ...], fraction: float) -> tuple[int, int]:
    """Ranks of the channel modes that keep about a fraction of the parameters.

    Args:
        kernel_shape: `(*kernel_size, in, out)`.
        fraction: of the kernel's parameters, in (0, 1).

    Returns:
        `(r_in, r_out)`: no rank is larger than a factor can use.

    Raises:
        ValueError: a fraction out of range.

    Example:
        >>> tucker_ranks((3, 3, 64, 64), 0.5)
        (41, 41)
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie in (0, 1). Received: fraction={fraction}")
    *size, n_in, n_out = kernel_shape
    # As in PyTorch, output channels come first and the kernel's sides last.
    spatial = list(range(2, 2 + len(size)))
    r_out, r_in, *_ = validate_tucker_rank(
        (n_out, n_in, *size), rank=float(fraction), fixed_modes=spatial
    )
    taps = math.prod(size)
    return min(r_in, taps * n_out), min(r_out, taps * n_in)


def tucker_plan(model: keras.Model, fraction: float, budget: Budget) -> Plan:
    """The plan that keeps one fraction of the parameters of every convolution.

    A 1×1 convolution gets the pair of factors that its Tucker form is equal to. What
    would not become smaller is left alone, and so are dense layers.
    """
    specs = layer_specs(model)
    ranks: dict[str, tuple[int, ...] | None] = {"*": None}
    for spec in specs:
        if isinstance(spec.layer, keras.layers.Conv2D) and spec.options:
            found = tucker_ranks(kernel_shape_of(spec.layer), fraction)
            pointwise = math.prod(spec.layer.kernel_size) == 1
            ranks[spec.name] = (min(found),) if pointwise else found
    return Fixed(ranks=ranks).select(specs, budget)


def factorize_by_tensorly(model: keras.Model, budget: Budget) -> keras.Model:
    """The model of the largest fraction, in steps of 1/64, that meets a budget.

    Args:
        model: a trained model; it is not changed.
        budget: of the costs relative to `model`.

    Raises:
        ValueError: no fraction meets the budget.
    """
    for step in range(_STEPS - 1, 0, -1):
        plan = tucker_plan(model, step / _STEPS, budget)
        if plan.met:
            break
    else:
        raise ValueError(
            f"No fraction of the parameters of the convolutions of '{model.name}' "
            f"meets the budget. Received: {budget.describe()}"
        )
    small = factorize(model, plan.choices())
    kernels = {path: layer for path, layer in leaves(model)}
    for path, layer in leaves(small):
        if plan.choices().get(path, ("",))[0] == "Tucker2Conv2D":
            kernel = np.asarray(kernels[path].kernel, np.float64)
            layer.assign_factors(_factors(kernel, layer.ranks))
    return small


def _factors(kernel: np.ndarray, ranks: tuple[int, int]) -> dict[str, np.ndarray]:
    (core, (u, v)), _ = partial_tucker(kernel, rank=list(ranks), modes=[2, 3])
    return {"u": u[None, None], "core": core, "v": v.T[None, None]}
