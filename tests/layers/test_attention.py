"""Attention layers with factorized projections, by themselves and in surgery."""

import conformance as c
import keras
import numpy as np
import pytest

from tfcompress.cost import layer_specs, model_cost
from tfcompress.deploy import TFLiteModel, export_tflite
from tfcompress.errors import RankError, UnsupportedModelError
from tfcompress.layers import (
    FactorizedEinsumDense,
    FactorizedGroupedQueryAttention,
    FactorizedMultiHeadAttention,
    registry,
)
from tfcompress.surgery import copy_model, expand, factorize, replace_layers
from tfcompress.trace import leaves

L = keras.layers

PROJECTIONS = ("query", "key", "value", "attention_output")


def self_attention(layer, **kwargs):
    x = keras.Input((6, 8), name="x")
    return keras.Model(x, layer(x, x, **kwargs))


def cross_attention(layer):
    q, v = keras.Input((5, 8), name="q"), keras.Input((6, 10), name="v")
    return keras.Model([q, v], layer(query=q, value=v))


def own_keys(layer):
    q, k = keras.Input((5, 8), name="q"), keras.Input((6, 10), name="k")
    v = keras.Input((6, 7), name="v")
    return keras.Model([q, v, k], layer(q, v, k))


def mha(**options):
    return L.MultiHeadAttention(2, 4, name="mha", **options)


def gqa(**options):
    return L.GroupQueryAttention(4, 4, 2, name="mha", **options)


def with_scores():
    x = keras.Input((6, 8), name="x")
    y, scores = mha()(x, x, return_attention_scores=True)
    return keras.Model(x, [y, scores])


def masked():
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = L.Embedding(9, 8, mask_zero=True, name="words")(ids)
    return keras.Model(ids, L.GlobalAveragePooling1D()(mha()(x, x)))


def shared():
    layer = mha()
    x = keras.Input((6, 8), name="x")
    y = layer(x, x)
    return keras.Model(x, layer(y, x))


def images():
    x = keras.Input((3, 4, 8), name="x")
    layer = mha(attention_axes=(2,), output_shape=(5,), value_dim=3)
    return keras.Model(x, layer(x, x))


MODELS = {
    "self": lambda: self_attention(mha()),
    "cross": lambda: cross_attention(mha()),
    "own keys": lambda: own_keys(mha(value_dim=3)),
    "causal": lambda: self_attention(mha(), use_causal_mask=True),
    "no bias": lambda: self_attention(mha(use_bias=False)),
    "gate": lambda: self_attention(mha(use_gate=True)),
    "window": lambda: self_attention(mha(sliding_window=2)),
    "dropout": lambda: self_attention(mha(dropout=0.3, seed=1)),
    "scores": with_scores,
    "masked": masked,
    "shared": shared,
    "axes": images,
    "grouped": lambda: self_attention(gqa()),
    "grouped gate": lambda: self_attention(gqa(use_gate=True)),
}


def data_for(model):
    flat = [
        c.normal((3, *t.shape[1:]), i)
        if t.dtype == "float32"
        else np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
        for i, t in enumerate(model.inputs)
    ]
    return flat if len(flat) > 1 else flat[0]


def assert_same(new, old, tolerance=1e-4):
    x = data_for(old)
    for a, b in zip(
        keras.tree.flatten(new(x)), keras.tree.flatten(old(x)), strict=True
    ):
        assert c.relative_error(a, b) <= tolerance


def choices(model, share=1.0):
    found = {}
    for path, layer in leaves(model):
        if path.startswith("mha/"):
            name = registry.options(layer)[0][0]
            (most,) = (
                layer.ranks
                if isinstance(layer, FactorizedEinsumDense)
                else FactorizedEinsumDense.max_ranks(
                    FactorizedEinsumDense.stock_kernel_shape(layer)
                )
            )
            found[path] = (name, (max(int(most * share), 1),))
    return found


@pytest.mark.parametrize("case", MODELS)
def test_surgery_on_the_projections(case, tmp_path):
    """Full rank keeps the outputs; lower ranks are what the rows promised."""
    model = c.randomize(MODELS[case]())
    before = c.state_of(model)
    stock = type(model.get_layer("mha"))
    full = factorize(model, choices(model))
    layer = full.get_layer("mha")
    assert isinstance(layer, stock) and type(layer) is registry.composite_for(layer)
    assert set(layer.ranks) == set(registry.parts(layer))
    assert_same(full, model)
    assert [leaf.path for leaf in leaves(full)] == [leaf.path for leaf in leaves(model)]
    c.assert_same_state(before, c.state_of(model))
    # A later round cuts further; both costs are those planned.
    lower = choices(full, 0.5)
    predicted = {
        spec.name: registry.get(lower[spec.name][0]).cost(spec, lower[spec.name][1])
        for spec in layer_specs(full)
        if spec.name in lower
    }
    low = factorize(full, lower)
    specs = layer_specs(low)
    for spec in specs:
        if spec.name in predicted:
            assert spec.cost == predicted[spec.name]
    total = tuple(sum(s.cost[i] for s in specs) for i in range(3))
    assert total == model_cost(low)
    assert low.count_params() == model_cost(low).params < full.count_params()
    assert [s.dense for s in specs] == [s.cost for s in layer_specs(model)]
    # Copies, files and stock layers give the same outputs.
    assert_same(copy_model(low), low, 0.0)
    low.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert_same(loaded, low, 1e-6)
    assert loaded.get_layer("mha").get_config() == low.get_layer("mha").get_config()
    plain = expand(low)
    assert type(plain.get_layer("mha")) is stock
    assert not any(registry.is_own(x) for x in plain._flatten_layers())
    assert_same(plain, low, 1e-4)


def test_some_projections_only():
    model = c.randomize(self_attention(mha()))
    low = factorize(model, {"mha/key": ("FactorizedEinsumDense", (2,))})
    kinds = {name: type(x) for name, x in registry.parts(low.get_layer("mha")).items()}
    assert kinds.pop("key") is FactorizedEinsumDense
    assert set(kinds.values()) == {L.EinsumDense}
    expected = FactorizedEinsumDense.from_layer(model.get_layer("mha").key_dense, 2)
    model.get_layer("mha").key_dense.kernel.assign(expected.kernel())
    assert_same(low, model)
    # The rest in another round; the first stays.
    both = factorize(low, {"mha/query": ("FactorizedEinsumDense", (3,))})
    assert both.get_layer("mha").ranks == {"query": (3,), "key": (2,)}
    assert both.get_layer("mha")._layers[0].name == "query"


def test_nothing_of_the_dense_projections_stays_behind():
    model = self_attention(mha())
    low = factorize(model, {"mha/key": ("FactorizedEinsumDense", (2,))})
    layer = low.get_layer("mha")
    assert len(layer._layers) == len(model.get_layer("mha")._layers)
    assert len(layer.weights) == 9
    assert layer.count_params() == model.count_params() - 64 + 2 * 16


@pytest.mark.parametrize("frozen", ["layer", "projection", "other projection"])
def test_trainable_flags(frozen):
    model = self_attention(mha())
    layer = model.get_layer("mha")
    parts = {"layer": layer, "projection": layer.query_dense}
    parts.get(frozen, layer.value_dense).trainable = False
    low = factorize(model, {"mha/query": ("FactorizedEinsumDense", (2,))})
    new = low.get_layer("mha")
    assert new.trainable == layer.trainable
    for name, part in registry.parts(new).items():
        assert part.trainable == registry.parts(layer)[name].trainable, name


def test_regularizers_and_policy_are_kept():
    options = dict(
        kernel_regularizer="l2", bias_regularizer="l1", dtype="mixed_bfloat16"
    )
    model = c.randomize(self_attention(mha(**options)))
    full = factorize(model, choices(model))
    assert full.get_layer("mha").dtype_policy.name == "mixed_bfloat16"
    assert full.get_layer("mha").query_dense.dtype_policy.name == "mixed_bfloat16"
    losses = [sorted(map(float, x.losses)) for x in (full, model)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert_same(full, model, 5e-2)
    # Made dense again, the kernels have their regularizer back.
    merged = expand(full)
    np.testing.assert_allclose(sorted(map(float, merged.losses)), losses[1], rtol=1e-3)


def test_dropout_goes_on_where_it_was():
    model = self_attention(mha(dropout=0.5, seed=3))
    x = data_for(model)
    model(x, training=True)
    full = factorize(model, choices(model))
    np.testing.assert_allclose(
        full(x, training=True), model(x, training=True), atol=1e-5
    )


def test_training_reaches_the_factors():
    model = self_attention(mha())
    low = factorize(model, {"mha/query": ("FactorizedEinsumDense", (2,))})
    before = low.get_layer("mha").query_dense.kernel()
    low.compile("sgd", "mse")
    x = data_for(low)
    low.fit(x, x, epochs=1, verbose=0)
    assert np.abs(low.get_layer("mha").query_dense.kernel() - before).max() > 1e-6


@keras.saving.register_keras_serializable(package="tests.attention")
class Encoder(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = L.MultiHeadAttention(2, 4, name="mha")
        self.dense = L.Dense(5, name="dense")

    def call(self, inputs):
        return self.dense(self.attention(inputs, inputs))


def test_subclassed_models():
    model = Encoder()
    x = c.normal((3, 6, 8))
    model(x)
    c.randomize(model)
    full = factorize(model, choices(model))
    assert type(full.attention) is FactorizedMultiHeadAttention
    assert c.relative_error(full(x), model(x)) < 1e-4
    low = factorize(full, choices(full, 0.5))
    assert low.attention.ranks["query"] == (4,)
    assert c.relative_error(copy_model(low)(x), low(x)) == 0.0
    assert [leaf.path for leaf in leaves(low)] == [leaf.path for leaf in leaves(model)]
    plain = expand(low)
    assert type(plain.attention) is L.MultiHeadAttention
    assert c.relative_error(plain(x), low(x)) < 1e-5


def test_a_subclass_of_attention_stays_whole():
    class Odd(L.MultiHeadAttention):
        pass

    model = self_attention(Odd(2, 4, name="mha"))
    assert [leaf.path for leaf in leaves(model)] == ["x", "mha"]
    spec = layer_specs(model)[-1]
    assert spec.cost.params == model.count_params() and spec.reason


@pytest.mark.parametrize("make", [mha, gqa])
def test_tflite(make, tmp_path):
    model = c.randomize(self_attention(make()))
    low = factorize(model, choices(model, 0.5))
    path = export_tflite(low, tmp_path / "model.tflite")
    x = data_for(low)
    assert c.relative_error(TFLiteModel(path).predict(x), low(x)) < 1e-4


def test_other_layers_are_no_projections():
    model = self_attention(mha())
    part = model.get_layer("mha").query_dense
    dense = L.Dense(8, name="query")
    dense.build((None, 6, 8))
    other = L.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")
    other.build((None, 6, 8))
    low = FactorizedEinsumDense.from_layer(part, 2)
    for wrong in (dense, other, low.expand()):
        with pytest.raises(UnsupportedModelError, match="'query' .* can only be"):
            replace_layers(model, {"mha/query": wrong})
    with pytest.raises(UnsupportedModelError, match="as a whole and in parts"):
        replace_layers(model, {"mha": mha(), "mha/query": low})


@pytest.mark.parametrize(
    "cls", [FactorizedMultiHeadAttention, FactorizedGroupedQueryAttention]
)
def test_argument_errors(cls):
    arguments = (2, 4) if cls is FactorizedMultiHeadAttention else (4, 2, 2)
    with pytest.raises(ValueError, match="no projection 'qery'; did you mean 'query'"):
        cls(*arguments, ranks={"qery": 2})
    with pytest.raises(RankError, match="positive integer"):
        cls(*arguments, ranks={"query": 0})
    shapes = ((None, 6, 8), (None, 6, 8))
    with pytest.raises(ValueError, match="no projection 'gate'"):
        cls(*arguments, ranks={"gate": 2}).build(*shapes)
    with pytest.raises(RankError, match="at most"):
        cls(*arguments, ranks={"query": 99}).build(*shapes)
    plain = cls(*arguments)
    plain.build(*shapes)
    assert plain.get_config()["ranks"] == {}
