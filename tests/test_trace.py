"""What a trace finds: every layer once, every call with its shapes."""

import keras
import numpy as np
import pytest

from tfcompress.errors import UnsupportedModelError
from tfcompress.models import vit
from tfcompress.surgery import factorize
from tfcompress.trace import leaves, listening, trace_calls

L = keras.layers
PARTS = ["query", "key", "value", "attention_output"]


def attention(name="mha", **options):
    return L.MultiHeadAttention(2, 3, name=name, **options)


def on_tokens(*layers):
    x = keras.Input((6, 8), name="x")
    y = x
    for layer in layers:
        y = layer(y, y)
    return keras.Model(x, y)


def test_attention_is_followed_by_its_projections():
    model = on_tokens(attention("one"), attention("two", use_gate=True))
    paths = [leaf.path for leaf in leaves(model)]
    two = ["query", "key", "value", "gate", "attention_output"]
    expected = ["one", *(f"one/{p}" for p in PARTS), "two", *(f"two/{p}" for p in two)]
    assert paths == ["x", *expected]
    assert [leaf.path for leaf in leaves(model, parts=False)] == ["x", "one", "two"]
    found = dict(leaves(model))
    assert found["two/gate"] is model.get_layer("two")._gate_dense


def test_paths_of_nested_models():
    x = keras.Input((6, 8), name="x")
    inner = on_tokens(attention())
    inner.name = "inner"
    paths = [leaf.path for leaf in leaves(keras.Model(x, inner(inner(x))))]
    assert paths.count("inner/mha/query") == 1 and len(paths) == len(set(paths))


class Twice(keras.Model):
    def __init__(self):
        super().__init__()
        self.layers_ = [attention("same"), attention("same")]

    def call(self, inputs):
        for layer in self.layers_:
            inputs = layer(inputs, inputs)
        return inputs


def test_two_layers_of_one_name_keep_their_parts_apart():
    model = Twice()
    model(np.zeros((1, 6, 8), "float32"))
    paths = [leaf.path for leaf in leaves(model)]
    expected = ["same", *(f"same/{p}" for p in PARTS)]
    assert paths == [*expected, *(path.replace("same", "same#2") for path in expected)]


def test_calls_of_projections():
    model = on_tokens(layer := attention(), layer)
    calls = trace_calls(model)
    assert calls[id(layer.query_dense)] == (((6, 8), (6, 2, 3)),) * 2
    assert calls[id(layer.output_dense)] == (((6, 2, 3), (6, 8)),) * 2
    # Factorized ones are heard in the same places.
    low = factorize(model, {"mha/query": ("FactorizedEinsumDense", (2,))})
    new = low.get_layer("mha")
    assert trace_calls(low)[id(new.query_dense)] == calls[id(layer.query_dense)]


def test_listener_hears_the_projections_on_real_data():
    model = on_tokens(layer := attention())
    heard = {}
    with listening(lambda layer, inputs, outputs: heard.setdefault(id(layer), outputs)):
        model(np.ones((2, 6, 8), "float32"))
    assert heard[id(layer.key_dense)].shape == (2, 6, 2, 3)


def test_vit_calls_every_leaf():
    model = vit((8, 8, 1), 3, dim=8, depth=1, heads=2)
    calls = trace_calls(model)
    for path, layer in leaves(model):
        assert isinstance(layer, L.InputLayer) or len(calls[id(layer)]) == 1, path


def test_a_model_that_cannot_run():
    class Broken(L.Layer):
        def compute_output_shape(self, input_shape):
            return input_shape

        def call(self, inputs):
            raise ValueError("never on numbers")

    x = keras.Input((4,))
    with pytest.raises(UnsupportedModelError, match="does not run on inputs"):
        trace_calls(keras.Model(x, Broken()(x)))
