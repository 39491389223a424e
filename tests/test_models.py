"""The reference networks."""

import keras
import numpy as np
import pytest

from tfcompress.models import NETWORKS, build, detector, resnet, unet, vgg, vit

SMALL = {
    "resnet": {"depth": 8, "width": 4},
    "vgg": {"width": 4, "hidden": 8},
    "vit": {"dim": 8, "depth": 2, "heads": 2},
    "detector": {"width": 4},
    "unet": {"width": 4},
    "regressor": {"width": 4},
}
CLASSIFIERS = ("resnet", "vgg", "vit")


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 13, 3)])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gives_one_logit_for_each_class(name, shape):
    model = build(name, shape, 7, **SMALL[name])
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)
    images = np.random.default_rng(0).uniform(size=(3, *shape)).astype("float32")
    outputs = model(images).numpy()
    assert np.isfinite(outputs).all()
    # Logits, not probabilities.
    assert not np.allclose(outputs.sum(-1), 1.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_on_the_seed_alone(name):
    outputs = ("angle", "scale") if name == "regressor" else 10
    one, two, other = (
        build(name, (8, 8, 1), outputs, seed=seed, **SMALL[name]) for seed in (3, 3, 4)
    )
    kernels = 0
    for a, b, c in zip(one.weights, two.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if a.name == "kernel":
            kernels += 1
            assert np.abs(a - c).max() > 1e-3
    assert kernels >= 8
    assert [layer.name for layer in one.layers] == [layer.name for layer in two.layers]


@pytest.mark.parametrize(
    "model",
    [
        resnet((8, 8, 1), 10, depth=14, width=4),
        vit((8, 8, 1), 10, dim=8, depth=2, heads=2),
    ],
    ids=lambda model: model.name,
)
def test_no_two_layers_share_their_initial_weights(model):
    kernels = [np.array(w) for w in model.weights if w.name == "kernel"]
    for i, a in enumerate(kernels):
        for b in kernels[:i]:
            assert a.shape != b.shape or np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
    "name, outputs, shape",
    [
        ("detector", 5, (2, 3, 5 + 4)),
        ("unet", 5, (16, 24, 5)),
        ("regressor", ("a", "b"), {"a": (1,), "b": (1,)}),
    ],
)
def test_networks_of_other_tasks(name, outputs, shape):
    model = build(name, (16, 24, 3), outputs, **SMALL[name])
    found = model(np.random.default_rng(0).random((2, 16, 24, 3), "float32"))
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape[1:]), found)
    assert shapes == shape
    assert all(np.isfinite(x).all() for x in keras.tree.flatten(found))


@pytest.mark.parametrize("make, size", [(detector, 20), (unet, 18)])
def test_sizes_that_cannot_be_halved(make, size):
    with pytest.raises(ValueError, match="multiples of .*Received: input_shape"):
        make((size, size, 1), 3)


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_layers_with_weights(depth):
    model = resnet((8, 8, 1), 10, depth=depth, width=4)
    # The two projections of the shortcuts are not counted (He et al. 2016).
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert len(kernels) == depth + 2
    assert model.name == f"resnet{depth}"


def test_resnet20_has_the_size_of_the_paper():
    # He et al. 2016, table 6: 0.27 M, there with shortcuts that have no weights.
    model = resnet((32, 32, 3), 10)
    assert 0.265e6 < model.count_params() < 0.28e6


@pytest.mark.parametrize("depth", [0, 2, 7, 9, 18, 34, -4])
def test_depths_that_do_not_exist(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2 .*Received: depth={depth}"):
        resnet((8, 8, 1), 10, depth=depth)


def test_vgg_pools_no_further_than_one_pixel():
    model = vgg((8, 8, 1), 10, width=2, blocks=5, hidden=4)
    assert model.get_layer("flatten").output.shape == (None, 2 * 2**4)


def test_vit_has_the_size_of_the_formula():
    dim, depth, patch = 16, 3, 4
    model = vit((10, 8, 3), 7, dim=dim, depth=depth, patch_size=patch)
    tokens = 3 * 2
    attention = 4 * (dim * dim + dim)
    hidden = 2 * 4 * dim * dim + 4 * dim + dim
    block = attention + hidden + 2 * 2 * dim
    stem = patch * patch * 3 * dim + tokens * dim
    total = stem + depth * block + 2 * dim + dim * 7 + 7
    assert model.count_params() == total


def test_vit_knows_where_its_tokens_are():
    model = vit((8, 8, 1), 3, dim=8, depth=1, heads=2)
    table = model.get_layer("positions")
    table.set_weights([np.arange(4.0)[:, None] * np.ones(8)])
    probe = keras.Model(model.input, table.output)
    found = probe(np.zeros((2, 8, 8, 1), "float32"))
    np.testing.assert_array_equal(found[..., 0], [[0, 1, 2, 3]] * 2)


def test_vit_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide dim. Received: dim=10"):
        vit((8, 8, 1), 3, dim=10, heads=4)


def test_unknown_network():
    with pytest.raises(ValueError, match="No network 'resnt'; did you mean 'resnet'"):
        build("resnt", (8, 8, 1), 10)


def test_unknown_option():
    with pytest.raises(ValueError, match="Network 'vgg': .*'depth'"):
        build("vgg", (8, 8, 1), 10, depth=8)
