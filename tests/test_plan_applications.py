"""Published architectures: every layer is seen once, and full rank changes nothing."""

import functools

import conformance as c
import keras
import numpy as np
import pytest

from tfcompress.cost import layer_specs, model_cost
from tfcompress.layers import FactorizedLayer, kernel_shape_of, registry
from tfcompress.models import vit
from tfcompress.ranks import VBMF, Budget, Energy, Ratio
from tfcompress.surgery import factorize

NETWORKS = (
    "VGG16",
    "ResNet50",
    "MobileNetV2",
    "EfficientNetB0",
    "DenseNet121",
    "ConvNeXtTiny",
)
ALL = (*NETWORKS, "ViT")
SLOW = tuple(name for name in NETWORKS if name != "MobileNetV2")


@functools.cache
def network(name):
    if name == "ViT":
        return vit((16, 16, 3), 10, dim=32, depth=2, heads=2)
    build = getattr(keras.applications, name)
    # VGG16's Dense layers take 1.6 s each to decompose; pooled, they are gone.
    if name == "VGG16":
        return build(weights=None, input_shape=(32, 32, 3), include_top=False)
    return build(weights=None, input_shape=(32, 32, 3), classes=10)


@functools.cache
def specs(name):
    return layer_specs(network(name))


def count_layers(model, seen=None):
    """Layers that are no models, each once, by plain recursion.

    Attention counts with its four projections.
    """
    seen = set() if seen is None else seen
    total = 0
    for layer in model.layers:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        nested = isinstance(layer, keras.Model)
        attention = isinstance(layer, keras.layers.MultiHeadAttention)
        total += count_layers(layer, seen) if nested else 5 if attention else 1
    return total


@pytest.mark.parametrize("name", ALL)
def test_specs_list_every_layer_once(name):
    model, rows = network(name), specs(name)
    assert len(rows) == count_layers(model)
    assert len({spec.name for spec in rows}) == len(rows)
    assert len({id(spec.layer) for spec in rows}) == len(rows)
    for spec in rows:
        assert bool(spec.options) != bool(spec.reason), "types, or a reason for none"
    total = model_cost(model)
    assert total.params == model.count_params()
    assert sum(spec.cost.params for spec in rows) == total.params
    assert sum(spec.cost.bytes for spec in rows) == total.bytes


@pytest.mark.parametrize(
    "selector",
    [Ratio(), Energy(types={}), VBMF(weakening=None)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("name", ["MobileNetV2", "ViT"])
def test_plans_have_every_layer_once(name, selector):
    check_plan(name, selector)


@pytest.mark.parametrize("name", NETWORKS)
def test_plans_by_rate(name):
    check_plan(name, Ratio())


@pytest.mark.slow
@pytest.mark.parametrize("selector", [Energy(), VBMF(weakening=None)], ids=["e", "v"])
@pytest.mark.parametrize("name", SLOW)
def test_plans_by_spectrum(name, selector):
    """Slow: singular values of all kernels; what real models look like to them."""
    check_plan(name, selector)


def check_plan(name, selector):
    rows = specs(name)
    plan = selector.select(rows, Budget(macs=0.5))
    assert [row.name for row in plan.rows] == [spec.name for spec in rows]
    assert plan.before == plan.dense == model_cost(network(name))
    for row, spec in zip(plan.rows, rows, strict=True):
        assert row.changed == (row.layer_type is not None)
        if row.changed:
            assert row.layer_type in spec.options and row.reason is None
            assert row.after.macs < row.before.macs
            assert row.after.params < row.before.params
        else:
            assert row.after == row.before and row.reason
    assert plan.met == (plan.after.macs <= 0.5 * plan.dense.macs)


def full_rank_choices(name, which):
    choices = {}
    for spec in specs(name):
        if spec.options:
            type_name = spec.options[which]
            ranks = registry.get(type_name).max_ranks(kernel_shape_of(spec.layer))
            choices[spec.name] = (type_name, ranks)
    return choices


FAST = [("ViT", 0), ("MobileNetV2", 0), ("MobileNetV2", -1)]


@pytest.mark.parametrize(
    ("name", "which"),
    [*FAST, *(pytest.param(name, 0, marks=pytest.mark.slow) for name in SLOW)],
)
def test_full_rank_keeps_the_output(name, which):
    """Slow for the large networks: each has its own graph for surgery to keep."""
    model = network(name)
    choices = full_rank_choices(name, which)
    new = factorize(model, choices)
    built = [s.layer for s in layer_specs(new) if isinstance(s.layer, FactorizedLayer)]
    assert len(built) == len(choices) > 0
    x = c.normal((2, *model.input_shape[1:]))
    assert c.relative_error(new(x), model(x)) < 1e-3
    assert np.all(np.isfinite(c.as_array(new(x))))
