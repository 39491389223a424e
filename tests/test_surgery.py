"""Surgery: rebuilt models compute the same, and the caller's model is as it was."""

import conformance as c
import keras
import numpy as np
import pytest

from tfcompress.errors import RankError, UnsupportedModelError
from tfcompress.layers import FactorizedLayer, kernel_shape_of, registry
from tfcompress.surgery import (
    copy_model,
    expand,
    factorize,
    recalibrate_batch_norm,
    replace_layers,
)
from tfcompress.trace import leaves

L = keras.layers


def sequential(name="seq"):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            L.Conv2D(6, 3, activation="relu", name="conv"),
            L.BatchNormalization(name="bn"),
            L.Dropout(0.5, name="drop", seed=3),
            L.GlobalAveragePooling2D(name="pool"),
            L.Dense(4, name="dense"),
        ],
        name=name,
    )


def functional():
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="conv1")(image)
    y = L.Conv2D(6, 3, padding="same", activation="relu", name="conv2")(x)
    x = L.Add(name="joined")([x, y]) * 2.0 + keras.ops.mean(y, axis=-1, keepdims=True)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, L.Dense(4, name="dense")(x), name="fun")


def sequential_in_functional():
    image = keras.Input((8, 8, 3), name="image")
    x = sequential("inner")(image)
    return keras.Model(image, L.Dense(2, name="head")(x), name="outer")


def functional_in_sequential():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), functional(), L.Dense(2, name="head")], name="outer"
    )


def shared():
    dense = L.Dense(5, name="shared")
    inputs = keras.Input((5,), name="x")
    return keras.Model(inputs, L.Add()([dense(inputs), dense(dense(inputs))]))


def shared_model():
    inner = keras.Sequential(
        [keras.Input((5,)), L.Dense(5, name="dense")], name="inner"
    )
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    return keras.Model([a, b], L.Subtract()([inner(a), inner(inner(b))]))


def dictionaries():
    a, b = keras.Input((5,), name="a"), keras.Input((4,), name="b")
    x, y = L.Dense(6, name="dense_a")(a), L.Dense(6, name="dense_b")(b)
    outputs = {"sum": L.Add()([x, y]), "one": L.Dense(2, name="one")(x)}
    return keras.Model({"a": a, "b": b}, outputs)


def lists():
    x = keras.Input((5,), name="x")
    return keras.Model(x, [L.Dense(3, name="d1")(x), L.Dense(2, name="d2")(x)])


def keyword_call():
    q, k = keras.Input((4, 8), name="q"), keras.Input((4, 8), name="k")
    x = L.MultiHeadAttention(2, 4, name="mha")(query=q, value=k)
    return keras.Model([q, k], L.Dense(3, name="dense")(inputs=x))


def composites():
    x = keras.Input((4, 8), name="x")
    y = L.TimeDistributed(L.Dense(6, name="within"), name="td")(x)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True), name="bi")(y)
    y = L.MultiHeadAttention(2, 3, name="mha")(y, y)
    return keras.Model(x, L.Dense(5, name="dense")(y))


def mixed():
    x = keras.Input((8,), name="x")
    y = L.Dense(8, activation="relu", dtype="mixed_bfloat16", name="dense")(x)
    return keras.Model(x, L.Dense(3, dtype="float32", name="head")(y))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first = L.Dense(width, name="first")
        self.blocks = [L.Dense(width, name=f"block{i}") for i in range(2)]
        self.heads = {"a": L.Dense(3, name="head")}

    def call(self, inputs):
        x = self.first(inputs)
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class NoConfig(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.dense = L.Dense(width)

    def call(self, inputs):
        return self.dense(inputs)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


MODELS = [
    sequential,
    functional,
    sequential_in_functional,
    functional_in_sequential,
    shared,
    shared_model,
    dictionaries,
    lists,
    keyword_call,
    composites,
    mixed,
]


def data_for(model):
    if not getattr(model, "inputs", None):
        return c.normal((3, 6))
    flat = [c.normal((3, *t.shape[1:]), i) for i, t in enumerate(model.inputs)]
    if isinstance(getattr(model, "_inputs_struct", None), dict):
        return {t.name: x for t, x in zip(model.inputs, flat, strict=True)}
    return flat if len(flat) > 1 else flat[0]


def assert_same_outputs(new, old, tolerance=1e-4):
    x = data_for(old)
    ours, theirs = new(x), old(x)
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert c.relative_error(a, b) <= tolerance


def full_rank(model):
    choices = {}
    for path, layer in leaves(model):
        names, _ = registry.options(layer)
        if names:
            ranks = registry.get(names[0]).max_ranks(kernel_shape_of(layer))
            choices[path] = (names[0], ranks)
    return choices


@pytest.mark.parametrize("make", [*MODELS, subclassed])
def test_copy_is_exact_and_apart(make):
    model = c.randomize(make())
    before = c.state_of(model)
    new = copy_model(model)
    assert_same_outputs(new, model, 0.0)
    assert [leaf.path for leaf in leaves(new)] == [leaf.path for leaf in leaves(model)]
    assert new.name == model.name
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}
    c.assert_same_state(before, c.state_of(new))
    for weight in new.weights:
        weight.assign(weight + 1.0)
    c.assert_same_state(before, c.state_of(model))


@pytest.mark.parametrize("make", [*MODELS, subclassed])
def test_full_rank_keeps_the_outputs(make):
    model = c.randomize(make())
    before = c.state_of(model)
    choices = full_rank(model)
    new = factorize(model, choices)
    kinds = {leaf.path: type(leaf.layer).__name__ for leaf in leaves(new)}
    assert {p: kinds[p] for p in choices} == {p: n for p, (n, _) in choices.items()}
    assert list(kinds) == [leaf.path for leaf in leaves(model)]
    assert_same_outputs(new, model, 5e-2 if make is mixed else 1e-4)
    c.assert_same_state(before, c.state_of(model))
    # Again: what is factorized is truncated, and may be copied.
    low = {p: (n, (1,) * len(ranks)) for p, (n, ranks) in choices.items()}
    lower = factorize(new, low)
    assert lower.count_params() < new.count_params()
    for path, layer in leaves(lower):
        if path in low:
            assert layer.ranks == low[path][1]
    assert_same_outputs(copy_model(lower), lower, 0.0)


@pytest.mark.parametrize("make", MODELS)
def test_expanded_and_saved(make, tmp_path):
    model = c.randomize(make())
    new = factorize(model, full_rank(model))
    stock = expand(new)
    assert not any(isinstance(x, FactorizedLayer) for x in stock._flatten_layers())
    tolerance = 5e-2 if make is mixed else 1e-5
    assert_same_outputs(stock, new, tolerance)
    for number, one in enumerate((new, stock)):
        path = tmp_path / f"{number}.keras"
        one.save(path)
        assert_same_outputs(keras.models.load_model(path), one, 1e-6)


def test_composites_are_left_whole_but_for_attention():
    paths = [leaf.path for leaf in leaves(composites())]
    parts = ["mha/query", "mha/key", "mha/value", "mha/attention_output"]
    assert paths == ["x", "td", "bi", "mha", *parts, "dense"]
    assert list(full_rank(composites())) == [*parts, "dense"]


def test_shared_layers_stay_shared():
    new = factorize(c.randomize(shared()), {"shared": ("FactorizedDense", (5,))})
    assert len(new.weights) == 3
    assert len(factorize(shared_model(), {}).weights) == 2
    assert len(expand(new).weights) == 3


def test_subclassed_model_forgets_the_replaced_layers():
    new = factorize(c.randomize(subclassed()), full_rank(subclassed()))
    assert [type(x).__name__ for x in new.layers] == ["FactorizedDense"] * 4
    assert isinstance(new.first, FactorizedLayer)
    assert all(isinstance(x, FactorizedLayer) for x in new.blocks)
    assert len(new.trainable_weights) == 12


def test_subclassed_model_takes_no_chains():
    new = factorize(c.randomize(subclassed()), full_rank(subclassed()))
    with pytest.raises(UnsupportedModelError, match="cannot take a chain"):
        expand(new)


def test_subclassed_model_without_config():
    model = NoConfig(3)
    model(np.zeros((1, 6), "float32"))
    with pytest.raises(UnsupportedModelError, match="Define get_config") as caught:
        copy_model(model)
    assert "\n" not in str(caught.value)


def test_lambda_is_refused_in_one_line():
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x + 1, name="odd")])
    with pytest.raises(UnsupportedModelError, match="Layer 'odd'.*copied") as caught:
        copy_model(model)
    assert "\n" not in str(caught.value)


def flags(model):
    return {layer.name: layer.trainable for layer in model._flatten_layers()}


def test_trainable_flags():
    model = sequential_in_functional()
    inner = model.get_layer("inner")
    inner.trainable = False
    inner.get_layer("dense").trainable = True
    model.get_layer("head").trainable = False
    expected = flags(model)
    assert expected["conv"] is False and expected["dense"] is True
    assert flags(copy_model(model)) == expected
    assert flags(factorize(model, full_rank(model))) == expected
    assert flags(model) == expected
    whole = sequential()
    whole.trainable = False
    assert not any(flags(factorize(whole, full_rank(whole))).values())


def test_dropout_state_is_copied():
    model = sequential()
    x = data_for(model)
    model(x, training=True)
    new = copy_model(model)
    np.testing.assert_array_equal(model(x, training=True), new(x, training=True))


def test_chain_in_place_of_a_layer():
    model = c.randomize(functional())
    halves = [L.Dense(6, name="h1"), L.Dense(4, name="h2")]
    for half in halves:
        half.build((None, 6))
    new = replace_layers(model, {"dense": halves})
    assert [layer.name for layer in new.layers][-2:] == ["h1", "h2"]


def test_errors():
    model = sequential()
    for change in (
        lambda: replace_layers(model, {"nowhere": L.Dense(3)}),
        lambda: factorize(model, {"nowhere": ("FactorizedDense", (1,))}),
    ):
        with pytest.raises(KeyError, match="No layer 'nowhere' in model 'seq'"):
            change()
    with pytest.raises(ValueError, match="it is no Dense"):
        factorize(model, {"conv": ("FactorizedDense", (1,))})
    with pytest.raises(RankError, match="at most"):
        factorize(model, {"dense": ("FactorizedDense", (99,))})
    with pytest.raises(UnsupportedModelError, match="not built"):
        copy_model(keras.Sequential([L.Dense(3)]))


def norm_model(*, dropout=False, nested=False):
    inner = [L.BatchNormalization(name="bn", momentum=0.9)]
    inner = [L.Dropout(0.9), *inner] if dropout else inner
    base = keras.Sequential([keras.Input((4,)), *inner], name="base")
    if not nested:
        return base
    inputs = keras.Input((4,))
    return keras.Model(inputs, base(inputs))


def norm_of(model):
    return {leaf.layer.name: leaf.layer for leaf in leaves(model)}["bn"]


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("frozen", ["no", "layer", "base"])
@pytest.mark.parametrize("nested", [False, True])
def test_recalibration_is_exact(nested, frozen, dropout):
    """Also where frozen; dropout stays in inference mode."""
    model = norm_model(dropout=dropout, nested=nested)
    if frozen == "layer":
        norm_of(model).trainable = False
    elif frozen == "base":
        (model.get_layer("base") if nested else model).trainable = False
    before = c.state_of(model)
    batches = [3.0 + 2.0 * c.normal((16, 4), seed) for seed in range(5)]
    new = recalibrate_batch_norm(model, [(x, None) for x in batches])
    c.assert_same_state(before, c.state_of(model))
    assert c.state_of(new)[0] == before[0]
    norm = norm_of(new)
    assert type(norm) is L.BatchNormalization and norm.momentum == 0.9
    mean = np.concatenate(batches).mean(axis=0)
    variance = np.mean([x.var(axis=0) for x in batches], axis=0)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-4)


def test_recalibration_takes_so_many_steps():
    batches = [c.normal((8, 4), seed) for seed in range(4)]
    new = recalibrate_batch_norm(norm_model(), iter(batches), steps=2)
    mean = np.concatenate(batches[:2]).mean(axis=0)
    np.testing.assert_allclose(norm_of(new).moving_mean, mean, atol=1e-6)
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batch_norm(norm_model(), [])


def test_recalibration_without_batch_norm_is_a_copy():
    model = c.randomize(functional())
    assert_same_outputs(recalibrate_batch_norm(model, []), model, 0.0)
