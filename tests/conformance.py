"""What every factorized layer type must hold, and small models the tests share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.cost import layer_specs, model_cost
from tfcompress.deploy import TFLiteModel, export_tflite
from tfcompress.layers import FactorizedLayer, kernel_of, kernel_variable, registry
from tfcompress.layers.support import kernel_option

L = keras.layers

# Relative to the largest output. bfloat16 has 8 bits of mantissa, and a pair or a
# triple of factors rounds once for each of its outputs and weights.
TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 4e-2}

_SAME_CONFIG = ("name", "trainable", "dtype", "use_bias", "bias_axes", "activation")
_SAME_REGULARIZERS = ("bias_regularizer", "bias_constraint", "activity_regularizer")
_SAME_GEOMETRY = ("strides", "padding", "data_format", "dilation_rate", "mask_zero")


def randomize(layer: Any, seed: int = 0) -> Any:
    """Sets all weights of a built layer or model at random, of unit gain."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        fan_in = max(np.prod(weight.shape[:-1]), 1) if len(weight.shape) > 1 else 1
        value = rng.normal(size=weight.shape) / np.sqrt(fan_in)
        if weight.name.endswith("variance"):
            value = 0.5 + np.abs(value)
        weight.assign(value)
    return layer


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Standard normal float32 data."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def as_array(tensor: Any) -> np.ndarray:
    """A tensor of any float type as a float32 array."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def relative_error(found: Any, expected: Any) -> float:
    """Largest deviation over the largest expected value."""
    found, expected = as_array(found), as_array(expected)
    assert found.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return float(np.abs(found - expected).max(initial=0.0)) / scale


def state_of(layer: Any) -> list[Any]:
    """Everything of a layer or model that must not change under the caller's feet."""
    flags = [part.trainable for part in layer._flatten_layers()]
    return [flags, *[np.array(v) for v in layer.variables]]


def assert_same_state(before: list[Any], after: list[Any]) -> None:
    """Raises if two results of `state_of` differ."""
    assert before[0] == after[0]
    for one, other in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def input_dtype(layer: Any) -> str:
    """Embeddings take ids, other layers numbers."""
    return "int32" if hasattr(layer, "mask_zero") else "float32"


def inputs_for(layer: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random inputs of that shape, batch included."""
    if input_dtype(layer) == "int32":
        return np.random.default_rng(seed).integers(0, layer.input_dim, shape, "int32")
    return normal(shape, seed)


def single_layer_model(layer: Any, input_shape: tuple[int, ...]) -> keras.Model:
    """A functional model of one layer."""
    image = keras.Input(input_shape, name="image", dtype=input_dtype(layer))
    return keras.Model(image, layer(image))


def with_kernel(layer: Any, kernel: np.ndarray, input_shape: tuple) -> Any:
    """A stock layer like `layer` with another kernel."""
    twin = type(layer).from_config(layer.get_config())
    twin.build((None, *input_shape))
    twin.set_weights([np.array(w) for w in layer.weights])
    kernel_variable(twin).assign(kernel)
    return twin


def check_layer_type(
    cls: type[FactorizedLayer],
    layer: Any,
    input_shape: tuple[int, ...],
    ranks: tuple[int, ...] | None = None,
    *,
    tflite: bool = False,
    seed: int = 0,
) -> None:
    """Asserts all that a factorized layer type promises, on one layer.

    Args:
        cls: the layer type.
        layer: an unbuilt stock layer that the type supports.
        input_shape: without batch.
        ranks: the lower ranks to check at; half of the largest ones by default.
        tflite: also convert to TFLite (takes about half a second).
        seed: of weights and data.
    """
    layer.build((None, *input_shape))
    randomize(layer, seed)
    before = state_of(layer)
    x = inputs_for(layer, (2, *input_shape), seed + 1)
    kernel = kernel_of(layer)
    largest = cls.max_ranks(kernel.shape)
    ranks = ranks or tuple(max(rank // 2, 1) for rank in largest)
    assert cls.supports(layer) is None
    assert cls.__name__ in registry.options(layer)[0]

    full = cls.from_layer(layer, largest)
    _check_full_rank(full, layer, kernel, x)
    _check_config(full, layer)

    low = cls.from_layer(layer, ranks)
    _check_cost(cls, layer, input_shape, low)
    _check_cost(cls, layer, input_shape, full)
    _check_low_rank(low, layer, x)
    _check_truncate(cls, full, low, kernel)
    _check_spectra(cls, full, low, kernel)
    model = single_layer_model(low, input_shape)
    _check_saving(model, low, x)
    _check_expand(low, x, input_shape)
    if tflite:
        _check_tflite(model, x)
    assert_same_state(before, state_of(layer))


def _tolerance(layer: Any) -> float:
    return TOLERANCE[layer.dtype_policy.name]


def _check_full_rank(full: Any, layer: Any, kernel: np.ndarray, x: np.ndarray) -> None:
    assert relative_error(full(x), layer(x)) < _tolerance(layer)
    assert full(x).dtype == layer(x).dtype
    # Weights are float32 under either policy.
    weight = as_array(kernel_variable(layer))
    np.testing.assert_allclose(full.kernel(), weight, atol=2e-5)
    np.testing.assert_allclose(as_array(full.product()), weight, atol=2e-5)
    assert full.kernel_shape() == kernel.shape
    for name in (*type(full).kept_names, "bias"):
        kept = getattr(layer, name, None)
        assert (getattr(full, name) is None) == (kept is None)
        if kept is not None:
            np.testing.assert_array_equal(getattr(full, name), kept)


def _check_config(new: Any, layer: Any) -> None:
    old_config, new_config = layer.get_config(), new.get_config()
    for key in (*_SAME_CONFIG, *_SAME_REGULARIZERS, *_SAME_GEOMETRY):
        if key in old_config:
            one, other = new_config[key], old_config[key]
            same = (
                tuple(one) == tuple(other) if isinstance(one, tuple) else one == other
            )
            assert same, (key, one, other)
    assert new.trainable == layer.trainable
    assert new.dtype_policy == layer.dtype_policy
    own = getattr(layer, kernel_option(type(new).kernel_name, "regularizer"))
    assert (new.kernel_regularizer is None) == (own is None)


def _check_cost(cls: type, layer: Any, input_shape: tuple, new: Any) -> None:
    """Predicted cost is that of the built layer, by `count_params` and by tracing."""
    (spec,) = [
        s
        for s in layer_specs(single_layer_model(layer, input_shape))
        if s.calls and s.layer is layer
    ]
    predicted = cls.cost(spec, new.ranks)
    assert predicted.params == new.count_params()
    assert predicted == model_cost(single_layer_model(new, input_shape))
    (own,) = [
        s for s in layer_specs(single_layer_model(new, input_shape)) if s.layer is new
    ]
    assert own.cost == predicted
    assert own.dense == spec.cost, "the cost of the dense layer it stands for"
    assert own.options == (cls.__name__,)


def _check_low_rank(low: Any, layer: Any, x: np.ndarray) -> None:
    dense = with_kernel(layer, low.kernel(), x.shape[1:])
    assert relative_error(low(x), dense(x)) < _tolerance(layer)


def _check_truncate(cls: type, full: Any, low: Any, kernel: np.ndarray) -> None:
    before = state_of(full)
    cut = full.truncate(low.ranks)
    assert_same_state(before, state_of(full))
    assert type(cut) is cls and cut.ranks == low.ranks
    assert cut.get_config() == low.get_config()
    scale = max(float(np.linalg.norm(kernel)), 1e-6)
    product = cls.compose(low.factors())
    if cls.rank_count == 1 and cls.spectral:
        difference = np.linalg.norm(cls.compose(cut.factors()) - product) / scale
        assert difference < 1e-5 or _degenerate(cls, kernel, low.ranks)
    errors = [
        np.linalg.norm(cls.compose(new.factors()) - kernel) / scale
        for new in (cut, low)
    ]
    # Without a spectrum there is no unique truncation: sweeps end in a local minimum.
    slack = (-1e-4, 1e-4) if cls.spectral else (-np.inf, 0.2)
    assert slack[0] < errors[0] - errors[1] < slack[1]
    for name in (*cls.kept_names, *(["bias"] if low.use_bias else [])):
        np.testing.assert_array_equal(getattr(cut, name), getattr(full, name))
    again = low.truncate(low.ranks)
    np.testing.assert_allclose(again.kernel(), low.kernel(), atol=1e-5)
    # Further down, against the truncated product itself.
    ranks = tuple(max(rank // 2, 1) for rank in low.ranks)
    deeper = cls.compose(low.truncate(ranks).factors())
    direct = cls.compose(cls.decompose(product, ranks))
    lost = [np.linalg.norm(k - product) / scale for k in (deeper, direct)]
    assert slack[0] < lost[0] - lost[1] < slack[1]


def _degenerate(cls: type, kernel: np.ndarray, ranks: tuple[int, ...]) -> bool:
    """Whether two equal singular values stand at the cut: no unique truncation."""
    (values,) = cls.spectra(kernel)
    rank = ranks[0]
    if rank >= len(values):
        return False
    return bool(values[rank - 1] - values[rank] < 1e-3 * values[0])


def _check_spectra(cls: type, full: Any, low: Any, kernel: np.ndarray) -> None:
    """Spectra in core form are those of the kernel; shapes are of real unfoldings."""
    if not cls.spectral:
        return
    shapes = cls.unfolding_shapes(kernel.shape)
    for dense, own, shape in zip(
        cls.spectra(kernel), full.factor_spectra(), shapes, strict=True
    ):
        assert np.prod(shape) == kernel.size
        assert len(dense) <= min(shape)
        np.testing.assert_allclose(
            own[: len(dense)], dense, atol=2e-4 * max(dense[0], 1e-6)
        )
        energy = np.linalg.norm(kernel)
        np.testing.assert_allclose(np.linalg.norm(dense), energy, rtol=1e-4)
    for own, rank in zip(low.factor_spectra(), low.ranks, strict=True):
        assert np.count_nonzero(own > 1e-4 * own[0]) <= rank


def _check_saving(model: keras.Model, low: Any, x: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(as_array(loaded(x)), as_array(model(x)))
    again = loaded.get_layer(low.name)
    assert type(again) is type(low)
    assert again.get_config() == low.get_config()


def _check_expand(low: Any, x: np.ndarray, input_shape: tuple) -> None:
    chain = low.expand()
    outputs = x
    for part in chain:
        assert type(part).__module__.startswith("keras."), "a stock Keras layer"
        assert part.dtype_policy == low.dtype_policy
        assert part.trainable == low.trainable
        outputs = part(outputs)
    assert len({part.name for part in chain}) == len(chain)
    # bfloat16 rounds in other places where a layer's output is cast.
    limit = 1e-5 if low.dtype_policy.name == "float32" else _tolerance(low)
    assert relative_error(outputs, low(x)) < limit
    assert sum(part.count_params() for part in chain) == low.count_params()
    dtype = input_dtype(low)
    stock = keras.Sequential([keras.Input(input_shape, dtype=dtype), *chain])
    assert model_cost(stock) == model_cost(single_layer_model(low, input_shape))


def _check_tflite(model: keras.Model, x: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = export_tflite(model, Path(folder) / "model.tflite")
        outputs = TFLiteModel(path).predict(x)
    assert relative_error(outputs, model(x)) < 1e-4
