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
from tfcompress.layers import FactorizedLayer, registry

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


def test_every_type_is_registered_and_in_a_module_of_its_own():
    assert {cls.__name__ for cls in TYPES} == {
        name
        for name in tfcompress.layers.__all__
        if isinstance(getattr(tfcompress.layers, name), type)
    } - {"FactorizedLayer"}
    assert len({cls.__module__ for cls in TYPES}) == len(TYPES)
    for cls in TYPES:
        assert issubclass(cls, FactorizedLayer)
        assert len(cls.factor_names) >= 2 and cls.targets


def test_duplicates_are_refused():
    before = registry.names()
    twin = type(TYPES[0].__name__, (FactorizedLayer,), {})
    with pytest.raises(ValueError, match=f"{TYPES[0].__name__} is already registered"):
        registry.register(twin)
    assert registry.names() == before
    assert registry.get(TYPES[0].__name__) is TYPES[0]


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'Tucker2Conv2D'"):
        registry.get("Tucker2Conv")
    with pytest.raises(ValueError, match="known: ChannelSVDConv2D, FactorizedDense"):
        registry.get("xyz")


def built(layer, shape):
    layer.build((None, *shape))
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (L.Dense(4), (8,), {"FactorizedDense"}),
        (L.Conv2D(4, 1), (8, 8, 3), {"ChannelSVDConv2D"}),
        (L.Conv2D(4, (3, 1)), (8, 8, 3), {"ChannelSVDConv2D", "Tucker2Conv2D"}),
        (
            L.Conv2D(4, 3),
            (8, 8, 3),
            {"ChannelSVDConv2D", "SpatialSVDConv2D", "Tucker2Conv2D"},
        ),
    ],
)
def test_options(layer, shape, expected):
    names, reason = registry.options(built(layer, shape))
    assert set(names) == expected and reason is None
    for name in names:
        cls = registry.get(name)
        new = cls.from_layer(layer, cls.max_ranks(tuple(layer.kernel.shape)))
        assert registry.options(new) == ((name,), None)


def with_lora():
    layer = built(L.Dense(4), (8,))
    layer.enable_lora(2)
    return layer


def quantized():
    layer = built(L.Dense(4), (8,))
    layer.quantize("int8")
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: built(L.DepthwiseConv2D(3), (8, 8, 3)), "depthwise"),
        (lambda: built(L.SeparableConv2D(4, 3), (8, 8, 3)), "already factorized"),
        (lambda: built(L.Conv2DTranspose(4, 3), (8, 8, 3)), "transposed"),
        (lambda: built(L.Conv2D(4, 3, groups=2), (8, 8, 4)), "grouped .*2 groups"),
        (lambda: built(L.Conv1D(4, 3), (8, 3)), "Conv1D"),
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


@pytest.mark.parametrize("order", ["tfcompress, keras", "keras, tfcompress"])
def test_import_is_enough_to_read_a_file(tmp_path, order):
    """In safe mode, in a process that never names the layers."""
    image = keras.Input((8, 8, 3))
    x = image
    for cls in TYPES:
        if L.Conv2D in cls.targets:
            conv = c.randomize(built(L.Conv2D(5, 3, padding="same"), x.shape[1:]))
            x = cls.from_layer(conv, (2,) * cls.rank_count)(x)
    x = L.GlobalAveragePooling2D()(x)
    dense = c.randomize(built(L.Dense(4), (5,)))
    model = keras.Model(
        image, tfcompress.layers.FactorizedDense.from_layer(dense, 2)(x)
    )
    data = c.normal((2, 8, 8, 3))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", data)
    code = (
        f"import {order}\n"
        "import sys, numpy as np\n"
        "folder = sys.argv[1]\n"
        "m = keras.models.load_model(folder + '/model.keras', safe_mode=True)\n"
        "y = m(np.load(folder + '/x.npy'))\n"
        "np.save(folder + '/y.npy', y)\n"
        "print([type(layer).__name__ for layer in m.layers])"
    )
    printed = run(code, tmp_path)
    for cls in TYPES:
        assert cls.__name__ in printed
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(data), atol=1e-6)
