"""The registry of layer types, and reading their files after `import tfcompress`."""

import re
import subprocess
import sys
from pathlib import Path

import conformance as c
import keras
import numpy as np
import pytest

import tfcompress.layers
from tfcompress.layers import FactorizedLayer, kernel_shape_of, registry

L = keras.layers
TYPES = [registry.get(name) for name in registry.names()]


def run(code, *arguments):
    """Runs Python code in a fresh process; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


COMPOSITES = {"FactorizedMultiHeadAttention", "FactorizedGroupedQueryAttention"}


def test_every_type_is_registered_and_public():
    assert {cls.__name__ for cls in TYPES} == {
        name
        for name in tfcompress.layers.__all__
        if isinstance(getattr(tfcompress.layers, name), type)
    } - {"FactorizedLayer", *COMPOSITES}
    for cls in TYPES:
        assert issubclass(cls, FactorizedLayer)
        assert len(cls.factor_names) >= 2 and cls.targets


def test_types_of_one_target_see_the_same_kernel():
    """Planning reads it without choosing a type."""
    for target in {target for cls in TYPES for target in cls.targets}:
        types = [cls for cls in TYPES if target in cls.targets]
        assert len({cls.kernel_name for cls in types}) == 1
        assert len({cls.stock_kernel.__func__ for cls in types}) == 1
        assert len({cls.has_statistics for cls in types}) == 1


def test_duplicates_are_refused():
    before = registry.names()
    twin = type(TYPES[0].__name__, (FactorizedLayer,), {})
    with pytest.raises(ValueError, match=f"{TYPES[0].__name__} is already registered"):
        registry.register(twin)
    assert registry.names() == before
    assert registry.get(TYPES[0].__name__) is TYPES[0]


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'Tucker2Conv2D'"):
        registry.get("Tucker2Con2D")
    with pytest.raises(ValueError, match="known: .*ChannelSVDConv2D.*FactorizedDense"):
        registry.get("xyz")


def built(layer, shape):
    layer.build((None, *shape))
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (L.Dense(4), (8,), {"FactorizedDense"}),
        (L.EinsumDense("abc,cd->abd", (None, 4)), (5, 8), {"FactorizedEinsumDense"}),
        (L.Embedding(9, 4), (), {"FactorizedEmbedding"}),
        (L.SeparableConv1D(4, 3), (8, 3), {"FactorizedSeparableConv1D"}),
        (L.SeparableConv2D(4, 3), (8, 8, 3), {"FactorizedSeparableConv2D"}),
        (L.Conv1D(4, 3), (8, 3), {"ChannelSVDConv1D", "Tucker2Conv1D"}),
        (L.Conv3D(4, 3), (8, 8, 8, 3), {"ChannelSVDConv3D", "Tucker2Conv3D"}),
        (L.Conv2D(4, 1), (8, 8, 3), {"ChannelSVDConv2D"}),
        (
            L.Conv2D(4, (3, 1)),
            (8, 8, 3),
            {"ChannelSVDConv2D", "CPConv2D", "Tucker2Conv2D"},
        ),
        (
            L.Conv2D(4, 3),
            (8, 8, 3),
            {"ChannelSVDConv2D", "CPConv2D", "SpatialSVDConv2D", "Tucker2Conv2D"},
        ),
    ],
)
def test_options(layer, shape, expected):
    names, reason = registry.options(built(layer, shape))
    assert set(names) == expected and reason is None
    for name in names:
        cls = registry.get(name)
        new = cls.from_layer(layer, cls.max_ranks(kernel_shape_of(layer)))
        assert registry.options(new) == ((name,), None)


def with_lora():
    layer = built(L.Dense(4), (8,))
    layer.enable_lora(2)
    return layer


def quantized():
    layer = built(L.Dense(4), (8,))
    layer.quantize("int8")
    return layer


def attention():
    layer = L.MultiHeadAttention(2, 4)
    layer.build((None, 5, 8), (None, 5, 8))
    return layer


class Block(L.Layer):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: built(L.DepthwiseConv2D(3), (8, 8, 3)), "depthwise"),
        (lambda: built(L.Conv2DTranspose(4, 3), (8, 8, 3)), "transposed"),
        (lambda: built(L.Conv2D(4, 3, groups=2), (8, 8, 4)), "grouped .*2 groups"),
        (lambda: built(L.Conv1D(4, 3, groups=2), (8, 4)), "grouped .*2 groups"),
        (lambda: built(L.LSTM(4), (8, 3)), "recurrent"),
        (lambda: built(L.Bidirectional(L.LSTM(4)), (8, 3)), "recurrent"),
        (attention, "projections are replaced one by one"),
        (
            lambda: built(L.EinsumDense("abc,bcd->abd", (5, 4)), (5, 8)),
            "one matrix for",
        ),
        (
            lambda: built(L.Embedding(9, 4, embeddings_constraint="max_norm"), ()),
            "constraint",
        ),
        (lambda: built(L.ReversibleEmbedding(9, 4), ()), "subclass of Embedding"),
        (lambda: built(Block(), (8,)), "Block: a layer made of layers"),
        (lambda: built(L.Dense(4, kernel_constraint="max_norm"), (8,)), "constraint"),
        (lambda: L.Dense(4), "not built"),
        (with_lora, "LoRA"),
        (quantized, "quantized to int8"),
        (lambda: L.ReLU(), "no weights"),
        (lambda: built(L.BatchNormalization(), (8,)), "BatchNormalization: no kernel"),
    ],
)
def test_reasons(make, reason):
    names, found = registry.options(make())
    assert names == ()
    assert found is not None
    assert re.search(reason, found)


def test_a_subclass_of_a_stock_layer_is_left_alone():
    """What its `call` does is unknown."""

    class Odd(L.Dense):
        def call(self, inputs):
            return -super().call(inputs)

    assert registry.options(built(Odd(4), (8,)))[0] == ()


def test_import_does_not_import_keras_or_tensorflow():
    code = (
        "import sys, tfcompress\n"
        "print([m for m in ('tensorflow', 'keras', 'tf_keras') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


STOCK = {
    L.Conv1D: lambda: (L.Conv1D(5, 3), (8, 3)),
    L.Conv2D: lambda: (L.Conv2D(5, 3), (8, 8, 3)),
    L.Conv3D: lambda: (L.Conv3D(5, 3), (4, 4, 4, 3)),
    L.Dense: lambda: (L.Dense(4), (5,)),
    L.EinsumDense: lambda: (L.EinsumDense("abc,cd->abd", (None, 4)), (5, 8)),
    L.Embedding: lambda: (L.Embedding(9, 4), (5,)),
    L.SeparableConv1D: lambda: (L.SeparableConv1D(5, 3), (8, 3)),
    L.SeparableConv2D: lambda: (L.SeparableConv2D(5, 3), (8, 8, 3)),
}


def every_type():
    """A model with a layer of each type, and data for it."""
    inputs, outputs, data = [], [], []
    for cls in TYPES:
        layer, shape = STOCK[cls.targets[0]]()
        c.randomize(built(layer, shape))
        inputs.append(keras.Input(shape, dtype=c.input_dtype(layer)))
        data.append(c.inputs_for(layer, (2, *shape)))
        low = cls.from_layer(layer, (2,) * cls.rank_count)
        outputs.append(L.Flatten()(low(inputs[-1])))
    tokens = keras.Input((5, 8))
    inputs.append(tokens)
    data.append(c.normal((2, 5, 8)))
    for layer in (L.MultiHeadAttention(2, 4), L.GroupQueryAttention(4, 2, 1)):
        layer.build((None, 5, 8), (None, 5, 8))
        query = registry.parts(c.randomize(layer))["query"]
        low = tfcompress.layers.FactorizedEinsumDense.from_layer(query, 2)
        low = registry.composite_for(layer).with_parts(layer, {"query": low})
        outputs.append(L.Flatten()(low(tokens, tokens)))
    return keras.Model(inputs, L.Concatenate()(outputs)), data


@pytest.mark.parametrize("order", ["tfcompress, keras", "keras, tfcompress"])
def test_import_is_enough_to_read_a_file(tmp_path, order):
    """In safe mode, in a process that never names the layers."""
    model, data = every_type()
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", *data)
    code = (
        f"import {order}\n"
        "import sys, numpy as np\n"
        "folder = sys.argv[1]\n"
        "m = keras.models.load_model(folder + '/model.keras', safe_mode=True)\n"
        "x = np.load(folder + '/x.npz')\n"
        "y = m([x[name] for name in x.files])\n"
        "np.save(folder + '/y.npy', y)\n"
        "print([type(layer).__name__ for layer in m._flatten_layers()])"
    )
    printed = run(code, tmp_path)
    for name in {cls.__name__ for cls in TYPES} | COMPOSITES:
        assert f"'{name}'" in printed
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(data), atol=1e-6)
