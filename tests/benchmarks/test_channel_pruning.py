"""Channel pruning against what its definition says, on small networks."""

import keras
import numpy as np
import pytest

from benchmarks.channel_pruning import (
    channel_groups,
    group_norms,
    kept_count,
    prune_channels,
    prune_to_budget,
)
from tfcompress import models
from tfcompress.cost import model_cost
from tfcompress.errors import UnsupportedModelError
from tfcompress.ranks import Budget

IMAGES = np.random.default_rng(0).random((3, 16, 16, 1)).astype("float32")


def network(name):
    options = {"resnet": {"depth": 8, "width": 8}, "vgg": {"width": 8, "hidden": 16}}
    model = models.build(name, (16, 16, 1), 10, seed=1, **options[name])
    random = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([random.uniform(0.5, 1.5, shape) for shape in shapes])
    return model


def group_of(model, layer, role="out"):
    (group,) = [
        group
        for group in channel_groups(model)
        if any((site.layer, site.role) == (layer, role) for site in group.sites)
    ]
    return group


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_nothing_pruned_is_the_same_network(name):
    model = network(name)
    same = prune_channels(model, 0.0)
    np.testing.assert_array_equal(same(IMAGES), model(IMAGES))
    assert model_cost(same) == model_cost(model)


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_channels_that_do_nothing_are_pruned_without_a_trace(name):
    # Half of the channels of every group are silenced where they are made and read:
    # they are the least important ones, and the function must stay as it was.
    model = network(name)
    random = np.random.default_rng(3)
    for group in channel_groups(model):
        if group.fixed:
            continue
        dead = random.permutation(group.size)[: group.size // 2]
        for site in group.sites:
            layer = model.get_layer(site.layer)
            weights = layer.get_weights()
            if site.role == "norm":
                weights[0][dead] = weights[1][dead] = 0.0
            elif site.role == "out":
                for weight in weights:
                    weight[..., dead] = 0.0
            else:
                shape = (site.repeats, group.size)
                kernel = np.moveaxis(weights[0], -2, 0)
                kernel.reshape(*shape, *kernel.shape[1:])[:, dead] = 0.0
            layer.set_weights(weights)
    before = np.asarray(model(IMAGES))
    pruned = prune_channels(model, 0.5)
    assert np.abs(before).max() > 0.0
    np.testing.assert_allclose(pruned(IMAGES), before, rtol=1e-4, atol=1e-5)
    assert model_cost(pruned).macs < 0.3 * model_cost(model).macs


def test_the_largest_norms_stay():
    model = network("vgg")
    group = group_of(model, "block2_1_conv")
    norms = group_norms(model, group)
    kept = np.sort(np.argsort(-norms)[:8])
    pruned = prune_channels(model, 0.5)
    gamma = np.asarray(model.get_layer("block2_1_bn").gamma)
    np.testing.assert_array_equal(pruned.get_layer("block2_1_bn").gamma, gamma[kept])
    made, read = (
        np.square(model.get_layer(f"block2_{index}_conv").kernel.numpy())
        for index in (1, 2)
    )
    expected = made.sum((0, 1, 2)) + np.square(gamma) + read.sum((0, 1, 3))
    np.testing.assert_allclose(norms, expected / 3, rtol=1e-5)


def test_a_residual_sum_ties_its_branches():
    model = network("resnet")
    tied = {site.layer for site in group_of(model, "stage2_block1_2_conv").sites}
    assert {"stage2_block1_skip_conv", "stage2_block1_skip_bn"} <= tied
    assert "stage3_block1_1_conv" in tied and "stage2_block1_1_bn" not in tied
    pruned = prune_channels(model, 0.4)
    gammas = [
        set(np.asarray(net.get_layer(f"stage2_block1_{branch}_bn").gamma).tolist())
        for net in (pruned, model)
        for branch in ("2", "skip")
    ]
    # 9.6 of 16 channels are asked for: 8 is the nearest multiple of 4.
    assert [len(values) for values in gammas] == [8, 8, 16, 16]
    assert gammas[0] < gammas[2] and gammas[1] < gammas[3]


def test_inputs_and_outputs_stay():
    model = network("vgg")
    pruned = prune_channels(model, 0.5)
    assert pruned.input_shape == model.input_shape
    assert pruned.output_shape == model.output_shape
    assert group_of(model, "logits").fixed
    flattened = [s for s in group_of(model, "block3_2_conv").sites if s.repeats > 1]
    assert [site.layer for site in flattened] == ["hidden"]


@pytest.mark.parametrize("name", ["resnet", "vgg"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_budget_is_met_and_not_by_far(name, share):
    model = network(name)
    weights = model.get_weights()
    pruned, ratio = prune_to_budget(model, Budget(macs=share), round_to=2)
    dense, now = (model_cost(one).macs for one in (model, pruned))
    assert now <= share * dense
    gentler = prune_channels(model, ratio - 2.0**-11, round_to=2)
    assert model_cost(gentler).macs > share * dense
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_channels_left():
    assert kept_count(32, 0.25, 8) == 24
    assert kept_count(10, 0.9, 1) == 1
    assert kept_count(32, 0.26, 8) == 24
    assert kept_count(32, 0.4, 8) == 16
    assert kept_count(16, 0.99, 8) == 8
    assert kept_count(6, 0.5, 8) == 6
    assert kept_count(10, 0.0, 8) == 10


def test_what_cannot_be_followed_is_refused():
    inputs = keras.Input((8, 8, 4))
    twice = keras.layers.Conv2D(4, 3, padding="same", name="twice")
    shared = keras.Model(inputs, twice(twice(inputs)))
    grouped = keras.Model(inputs, keras.layers.Conv2D(4, 3, groups=2)(inputs))
    with pytest.raises(UnsupportedModelError, match="more than once"):
        prune_channels(shared, 0.5)
    with pytest.raises(UnsupportedModelError, match="groups=2"):
        prune_channels(grouped, 0.5)
    with pytest.raises(ValueError, match="ratio=1"):
        prune_channels(network("vgg"), 1.0)
    with pytest.raises(ValueError, match="misses the budget"):
        prune_to_budget(network("vgg"), Budget(macs=1e-4))
