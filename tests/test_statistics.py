"""Moments of what layers see, and factors made from them."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.errors import OptionError, TfcompressError
from tfcompress.layers import kernel_of, registry
from tfcompress.layers.conv import patches
from tfcompress.statistics import collect_moments, factorize_on_data
from tfcompress.surgery import factorize


def correlated(seed, shape, directions=3):
    """Images of few directions, not centred."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(directions, shape[-1]))
    x = rng.normal(size=(*shape[:-1], directions)) @ mix
    return (x + 0.1 * rng.normal(size=shape) + 0.3).astype("float32")


@pytest.fixture(scope="module")
def network():
    """A strided and a "valid" convolution, a nested model, a layer called twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4), name="image")
    x = layers.Conv2D(
        12, 3, strides=2, padding="same", activation="relu", name="strided"
    )(inputs)
    inner = keras.Sequential(
        [keras.Input((5, 5, 12)), layers.Conv2D(16, 3, name="valid")], name="inner"
    )
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(inner(x)))
    twice = layers.Dense(16, activation="relu", name="twice")
    x = twice(twice(x))
    model = keras.Model(inputs, layers.Dense(6, name="logits")(x))
    for layer in (model.get_layer("strided"), inner.get_layer("valid"), twice):
        layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape) * 0.2)
    return model


@pytest.fixture(scope="module")
def batches():
    return [correlated(seed, (32, 9, 9, 4)) for seed in range(3)]


def seen_by(model, name):
    """A model that gives the outputs of the layer of a name."""
    return keras.Model(model.inputs, model.get_layer(name).output)


def assert_moments_of(moments, rows):
    rows = np.asarray(rows, np.float64)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.second, rows.T @ rows / len(rows), atol=1e-4)


def test_moments_are_those_of_the_patches(network, batches):
    found = collect_moments(network, batches)
    assert set(found) == {"strided", "inner/valid", "twice", "logits"}
    x = np.concatenate(batches)
    first = network.get_layer("strided")
    assert_moments_of(found["strided"], patches(x, first))
    middle = first(x)
    valid = network.get_layer("inner").get_layer("valid")
    assert_moments_of(found["inner/valid"], patches(middle, valid))
    pooled = np.maximum(valid(middle), 0).mean(axis=(1, 2))
    twice = network.get_layer("twice")
    assert_moments_of(found["twice"], np.concatenate([pooled, twice(pooled)]))
    assert_moments_of(found["logits"], twice(twice(pooled)))


def test_batches_may_bring_labels_and_end(network, batches):
    labelled = [(x, np.zeros(len(x))) for x in batches]
    plain = collect_moments(network, batches, steps=2)
    found = collect_moments(network, labelled, steps=2)
    few = collect_moments(network, batches[:2])
    for path in plain:
        np.testing.assert_array_equal(plain[path].second, found[path].second)
        # With more steps fewer rows are wanted of each; here all fit.
        np.testing.assert_allclose(plain[path].second, few[path].second)


def test_streamed_in_chunks_or_at_once(network, batches):
    """Batches of any size: the moments are of the rows, not means of means."""
    x = np.concatenate(batches)
    # Steps share the rows wanted: here all rows are taken, whatever the chunks.
    once = collect_moments(network, [x], steps=1)
    for chunks in (batches, np.split(x, [1, 8, 50])):
        streamed = collect_moments(network, chunks, steps=4)
        for path, moments in once.items():
            found = streamed[path]
            assert found.count == moments.count
            for one, other in (
                (found.mean, moments.mean),
                (found.second, moments.second),
            ):
                np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_no_more_batches_are_asked_for_than_steps(network, batches):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield batches[0]

    collect_moments(network, endless(), layers=["logits"], steps=3)
    assert len(asked) == 3


def test_inputs_far_from_zero_keep_their_variance():
    """Kelvins: sums of squares in float32 would lose it."""
    rng = np.random.default_rng(0)
    x = (293.0 + 2.0 * rng.normal(size=(4096, 3)) @ rng.normal(size=(3, 12))).astype(
        "float32"
    )
    model = keras.Sequential([keras.Input((12,)), layers.Dense(8, name="layer")])
    found = collect_moments(model, np.split(x, 4), reference=model)["layer"].centred()
    expected = np.cov(x.astype(np.float64).T, bias=True)
    tolerance = 1e-4 * np.trace(expected) / 12
    np.testing.assert_allclose(found.second, expected, atol=tolerance)
    np.testing.assert_allclose(found.cross, expected, atol=tolerance)


def test_some_layers_only(network, batches):
    assert set(collect_moments(network, batches, layers=["twice"])) == {"twice"}


def test_long_patches_are_measured_by_channel(network, batches):
    found = collect_moments(network, batches, max_size=40)
    assert found["strided"].size == 36
    assert found["inner/valid"].size == 12
    middle = np.array(network.get_layer("strided")(np.concatenate(batches)))
    assert_moments_of(found["inner/valid"], middle.reshape(-1, 12))


def test_a_sample_stands_for_all_rows(network):
    """More places than are wanted: near the moments of all of them."""
    x = correlated(9, (600, 9, 9, 4))
    found = collect_moments(network, [x] * 4, layers=["strided"], steps=4)["strided"]
    # 15,000 rows a batch; 16,384 are enough for all batches, taken evenly.
    assert found.count == 4 * 4096
    rows = np.asarray(patches(x, network.get_layer("strided")), np.float64)
    right = rows.T @ rows / len(rows)
    assert np.linalg.norm(found.second - right) < 0.05 * np.linalg.norm(right)


def test_samples_are_repeated_exactly(network):
    x = correlated(9, (600, 9, 9, 4))
    one, two = (collect_moments(network, [x], layers=["strided"]) for _ in range(2))
    np.testing.assert_array_equal(one["strided"].second, two["strided"].second)


@pytest.mark.parametrize("max_size", [2304, 20])
def test_cross_moments_are_of_the_same_places(network, max_size):
    """However rows are sampled: of a network with itself they are the moments."""
    x = correlated(9, (600, 9, 9, 4))
    found = collect_moments(network, [x], max_size=max_size, reference=network)
    assert found["strided"].size == (36 if max_size == 2304 else 4)
    assert found["strided"].count < 600 * 25 * (1 if max_size == 2304 else 9)
    for moments in found.values():
        tolerance = 1e-5 * np.abs(moments.second).max()
        np.testing.assert_allclose(moments.cross, moments.second, atol=tolerance)
        np.testing.assert_allclose(moments.target_mean, moments.mean, atol=1e-5)


def test_cross_moments_are_those_of_both_networks(network, batches):
    small = factorize(network, {"strided": ("ChannelSVDConv2D", (2,))})
    found = collect_moments(small, batches, reference=network)
    x = np.concatenate(batches)
    valid = network.get_layer("inner").get_layer("valid")
    rows, right = (
        np.asarray(patches(model.get_layer("strided")(x), valid), np.float64)
        for model in (small, network)
    )
    moments = found["inner/valid"]
    assert_moments_of(moments, rows)
    np.testing.assert_allclose(moments.target_mean, right.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.cross, rows.T @ right / len(rows), atol=1e-4)
    assert np.abs(moments.cross - moments.second).max() > 0.01


def test_networks_run_in_inference_mode():
    """Nothing is dropped, no batch statistics are used, none are updated."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dropout(0.5),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, name="dense"),
        ]
    )
    norm = model.get_layer("norm")
    norm.moving_mean.assign(np.linspace(-1, 1, 8))
    norm.moving_variance.assign(np.linspace(0.5, 2, 8))
    before = [np.array(w) for w in model.weights]
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    found = collect_moments(model, [x])
    assert set(found) == {"dense"}
    rows = (x - before[2]) / np.sqrt(before[3] + norm.epsilon)
    assert_moments_of(found["dense"], rows)
    for old, now in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, now)


CHOICES = {
    "strided": ("ChannelSVDConv2D", (6,)),
    "inner/valid": ("Tucker2Conv2D", (5, 6)),
    "twice": ("FactorizedDense", (5,)),
}


def error(model, network, batches):
    x = np.concatenate(batches)
    right = np.array(network(x))
    return np.mean(np.square(np.array(model(x)) - right)) / np.var(right)


def test_full_ranks_keep_the_output(network, batches):
    full = {
        "strided": ("ChannelSVDConv2D", (12,)),
        "inner/valid": ("Tucker2Conv2D", (12, 16)),
        "twice": ("FactorizedDense", (16,)),
    }
    for asymmetric in (False, True):
        model = factorize_on_data(network, full, batches, asymmetric=asymmetric)
        assert error(model, network, batches) < 1e-6


def test_data_aware_factors_lose_less_of_the_output(network, batches):
    plain = error(factorize(network, CHOICES), network, batches)
    aware = error(factorize_on_data(network, CHOICES, batches), network, batches)
    asymmetric = error(
        factorize_on_data(network, CHOICES, batches, asymmetric=True), network, batches
    )
    assert aware < 0.7 * plain
    # On a chain of layers it is better still: tests/layers/test_asymmetric.py.
    assert asymmetric < 0.8 * plain


def test_they_lose_less_on_data_not_seen_too(network, batches):
    new = [correlated(0, (32, 9, 9, 4)), correlated(1, (32, 9, 9, 4))]
    plain = error(factorize(network, CHOICES), network, new)
    aware = error(factorize_on_data(network, CHOICES, batches), network, new)
    assert aware < 0.9 * plain


CONVS = [
    ("ChannelSVDConv2D", (3,)),
    ("SpatialSVDConv2D", (4,)),
    ("Tucker2Conv2D", (2, 5)),
    ("CPConv2D", (6,)),
]


@pytest.fixture(scope="module")
def single():
    """One convolution with a bias: what it loses is what the network loses."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(12, 3, strides=2, padding="same", name="conv"),
        ]
    )


@pytest.mark.parametrize(("kind", "ranks"), CONVS)
def test_predicted_errors_are_those_of_the_outputs(single, batches, kind, ranks):
    moments = collect_moments(single, batches)["conv"]
    cls, layer = registry.get(kind), single.get_layer("conv")
    (predicted,) = cls.errors(kernel_of(layer), [ranks], cls.metric(layer, moments))
    model = factorize_on_data(single, {"conv": (kind, ranks)}, batches)
    plain = factorize(single, {"conv": (kind, ranks)})
    x = np.concatenate(batches)
    right = np.array(single(x))
    spread = np.square(right - right.mean(axis=(0, 1, 2))).sum()
    aware, unaware = (
        np.square(np.array(m(x)) - right).sum() / spread for m in (model, plain)
    )
    # Tables are found without the last sweeps.
    assert aware == pytest.approx(predicted, rel=0.15)
    assert aware < unaware


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(("kind", "ranks"), CONVS)
def test_mean_outputs_are_kept(single, batches, kind, ranks, asymmetric):
    model = factorize_on_data(
        single, {"conv": (kind, ranks)}, batches, asymmetric=asymmetric
    )
    x = np.concatenate(batches)
    means = [np.array(m(x)).mean(axis=(0, 1, 2)) for m in (model, single)]
    np.testing.assert_allclose(*means, atol=1e-4)
    plain = factorize(single, {"conv": (kind, ranks)})
    assert np.abs(np.array(plain(x)).mean(axis=(0, 1, 2)) - means[1]).max() > 0.01


def chain(seed):
    """Layers in a row, each behind the errors of all before it."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((32,))]
        + [layers.Dense(32, activation="relu", name=f"d{i}") for i in range(4)]
        + [layers.Dense(8, name="last")]
    )
    for i in range(4):
        bias = np.random.default_rng(seed + i).normal(size=32) * 0.2
        model.get_layer(f"d{i}").bias.assign(bias)
    return model


@pytest.mark.parametrize("seed", range(3))
def test_the_asymmetric_mode_loses_less_along_a_chain(seed):
    """Of the network's outputs, on correlated inputs of few directions."""
    model, data = chain(seed), [correlated(seed, (256, 32), directions=4)]
    choices = {f"d{i}": ("FactorizedDense", (4,)) for i in range(4)}
    choices["last"] = ("FactorizedDense", (3,))
    plain, independent, asymmetric = (
        factorize(model, choices),
        factorize_on_data(model, choices, data),
        factorize_on_data(model, choices, data, asymmetric=True),
    )
    found = [error(m, model, data) for m in (plain, independent, asymmetric)]
    assert found[1] < found[0]
    assert found[2] < found[1]
    # Behind activations only the asymmetric mode sees what became of the means.
    means = [
        np.array(m(data[0])).mean(axis=0) for m in (model, independent, asymmetric)
    ]
    np.testing.assert_allclose(means[2], means[0], atol=1e-4)
    assert np.abs(means[1] - means[0]).max() > 1e-3


def test_the_bias_takes_up_the_change_of_the_mean(network, batches):
    choices = {"strided": ("ChannelSVDConv2D", (2,))}
    model = factorize_on_data(network, choices, batches)
    x = np.concatenate(batches)

    def mean(model):
        layer = model.get_layer("strided")
        kernel = layer.kernel() if callable(layer.kernel) else np.array(layer.kernel)
        rows = np.asarray(patches(x, layer), np.float64)
        return rows.mean(axis=0) @ kernel.reshape(-1, 12) + np.array(layer.bias)

    np.testing.assert_allclose(mean(model), mean(network), atol=1e-4)


def test_the_model_is_left_alone_and_one_seed_gives_one_result(network, batches):
    before = [np.array(w) for w in network.weights]
    made = [
        factorize_on_data(network, CHOICES, batches, asymmetric=True) for _ in range(2)
    ]
    for old, now in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, now)
    for a, b in zip(made[0].weights, made[1].weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_neighbours_share_a_pass(network, batches):
    """Fewer passes than layers: all are factorized nevertheless."""
    for passes in (1, 2):
        model = factorize_on_data(
            network, CHOICES, batches, asymmetric=True, passes=passes
        )
        assert error(model, network, batches) < 1.0


def test_no_batches(network):
    with pytest.raises(TfcompressError, match="at least one batch"):
        collect_moments(network, [])


def test_batches_without_samples():
    model, x = chain(0), np.ones((4, 32), "float32")
    with pytest.raises(TfcompressError, match=r"'d0' sees no rows.*: 0 rows"):
        collect_moments(model, [x[:0]])
    assert collect_moments(model, [x, x[:0]])["d0"].count == 4


def test_a_generator_is_used_up_by_the_first_pass(network, batches):
    one = factorize_on_data(network, CHOICES, iter(batches))
    assert error(one, network, batches) < 1.0
    with pytest.raises(TfcompressError, match="used up by the first"):
        factorize_on_data(network, CHOICES, iter(batches), asymmetric=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_data_that_are_not_finite(network, batches, value):
    """Or whose squares are not."""
    broken = batches[0].copy()
    broken[3, 4, 4, 1] = value
    with pytest.raises(TfcompressError, match="'strided' sees values that are not"):
        collect_moments(network, [batches[1], broken])


def test_a_reference_that_is_broken():
    model, broken = chain(0), chain(0)
    broken.get_layer("d1").bias.assign(np.full(32, np.inf))
    with pytest.raises(TfcompressError, match="'d2' sees values that are not"):
        collect_moments(
            model, [np.ones((4, 32), "float32")], layers=["d2"], reference=broken
        )


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -1}, {"max_size": 0}])
def test_options_out_of_range(network, batches, options):
    (name, value), *_ = options.items()
    with pytest.raises(OptionError, match=rf"Received: .*{name}={value}"):
        collect_moments(network, batches, **options)


def test_no_passes(network, batches):
    with pytest.raises(OptionError, match="Received: passes=0"):
        factorize_on_data(network, CHOICES, batches, asymmetric=True, passes=0)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_path_that_names_no_layer(network, batches, asymmetric):
    choices = {**CHOICES, "nowhere": ("FactorizedDense", (2,))}
    with pytest.raises(KeyError, match="nowhere"):
        factorize_on_data(network, choices, batches, asymmetric=asymmetric)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_nothing_to_factorize(network, batches, asymmetric):
    model = factorize_on_data(network, {}, batches, asymmetric=asymmetric)
    np.testing.assert_array_equal(model(batches[0]), network(batches[0]))
