"""Ranks from a fraction of the parameters, and TensorLy's factors in Keras layers."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tensorly_tucker import (
    factorize_by_tensorly,
    tucker_plan,
    tucker_ranks,
)
from tfcompress import models
from tfcompress.cost import model_cost
from tfcompress.layers import Tucker2Conv2D
from tfcompress.ranks import Budget


@given(
    n_in=st.integers(16, 256),
    n_out=st.integers(16, 256),
    fraction=st.floats(0.05, 0.95),
)
@settings(max_examples=50, deadline=None)
def test_ranks_keep_the_fraction_of_the_parameters(n_in, n_out, fraction):
    r_in, r_out = tucker_ranks((3, 3, n_in, n_out), fraction)
    assert 1 <= r_in <= n_in and 1 <= r_out <= n_out

    def share(a, b):
        return (9 * a * b + n_in * a + n_out * b) / (9 * n_in * n_out)

    # Each rank is off by half at most; the sides' factors, which TensorLy counts and
    # no layer holds, are 18 weights.
    spare = 18 / (9 * n_in * n_out)
    assert share(r_in - 0.5, r_out - 0.5) <= fraction
    assert share(r_in + 0.5, r_out + 0.5) >= fraction - spare


def test_one_fraction_for_all_convolutions_and_no_dense_layer():
    model = models.vgg((16, 16, 1), 10, width=16)
    plan = tucker_plan(model, 0.3, Budget(macs=0.5))
    changed = {row.name for row in plan.rows if row.changed}
    assert {"block1_2_conv", "block3_2_conv"} <= changed
    assert not changed & {"hidden", "logits"}
    for row in plan.rows:
        if row.changed and row.dense.params > 1000:
            assert row.after.params / row.dense.params == pytest.approx(0.3, abs=0.05)


def test_the_factors_are_the_best_there_are_and_the_budget_is_met():
    model = models.resnet((16, 16, 1), 10, depth=8, width=16)
    small = factorize_by_tensorly(model, Budget(macs=0.5))
    dense, now = model_cost(model).macs, model_cost(small).macs
    assert 0.4 * dense < now <= 0.5 * dense
    layers = [layer for layer in small.layers if isinstance(layer, Tucker2Conv2D)]
    assert len(layers) >= 6
    for layer in layers:
        stock = model.get_layer(layer.name)
        kernel = np.asarray(stock.kernel)
        ours = Tucker2Conv2D.from_layer(stock, layer.ranks).kernel()
        errors = [math.dist(k.ravel(), kernel.ravel()) for k in (layer.kernel(), ours)]
        assert errors[0] == pytest.approx(errors[1], rel=0.02)
    pair = small.get_layer("stage2_block1_skip_conv")
    assert not isinstance(pair, keras.layers.Conv2D) and len(pair.ranks) == 1


def test_wrong_fractions_and_budgets_out_of_reach():
    with pytest.raises(ValueError, match="fraction=1.0"):
        tucker_ranks((3, 3, 8, 8), 1.0)
    with pytest.raises(ValueError, match="No fraction"):
        factorize_by_tensorly(models.vgg((16, 16, 1), 10), Budget(macs=1e-4))
