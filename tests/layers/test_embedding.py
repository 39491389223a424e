"""FactorizedEmbedding against the Embedding layer it replaces."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.cost import layer_specs
from tfcompress.errors import RankError
from tfcompress.layers import FactorizedEmbedding
from tfcompress.linalg import Moments
from tfcompress.ranks import Budget, Energy, Fixed
from tfcompress.surgery import factorize

L = keras.layers

CASES = {
    "long": (dict(input_dim=50, output_dim=12), (7,)),
    "wide": (dict(input_dim=9, output_dim=30), (7,)),
    "masked": (dict(input_dim=20, output_dim=8, mask_zero=True), (7,)),
    "grid of ids": (dict(input_dim=20, output_dim=8), (3, 4)),
    "regularized": (
        dict(
            input_dim=20,
            output_dim=8,
            embeddings_regularizer="l2",
            activity_regularizer="l2",
        ),
        (7,),
    ),
    "frozen": (dict(input_dim=20, output_dim=8, trainable=False, name="frozen"), (7,)),
    "mixed": (dict(input_dim=20, output_dim=8, dtype="mixed_bfloat16"), (7,)),
}


@pytest.mark.parametrize("case", CASES)
def test_conformance(case):
    options, shape = CASES[case]
    layer = L.Embedding(**options)
    c.check_layer_type(FactorizedEmbedding, layer, shape, tflite=case == "long")


def built(**options):
    layer = L.Embedding(20, 8, **options)
    layer.build()
    return c.randomize(layer)


def test_ids_of_any_type_are_looked_up_exactly():
    """float16 has no 2049; ids must not be cast to the layer's type."""
    layer = L.Embedding(3000, 4, dtype="mixed_float16")
    layer.build()
    full = FactorizedEmbedding.from_layer(c.randomize(layer), 4)
    right = np.array(layer(np.array([2049, 2051])))
    assert np.abs(right[0] - right[1]).max() > 0.01
    for ids in ([2049, 2051], [2049.0, 2051.0]):
        found = full(np.array(ids))
        assert found.dtype == "float16"
        np.testing.assert_allclose(found, right, atol=1e-2)


def test_mask_is_that_of_the_stock_layer():
    ids = np.array([[3, 0, 1]])
    masks = [x.compute_mask(ids) for x in (built(), built(mask_zero=True))]
    assert masks[0] is None
    low = FactorizedEmbedding.from_layer(built(mask_zero=True), 3)
    np.testing.assert_array_equal(low.compute_mask(ids), masks[1])
    assert FactorizedEmbedding.from_layer(built(), 3).compute_mask(ids) is None
    # What follows sees the mask: the mean is over two of three ids.
    x = keras.Input((3,), dtype="int32")
    model = keras.Model(x, L.GlobalAveragePooling1D()(low(x)))
    expected = low.kernel()[[3, 1]].mean(0)
    np.testing.assert_allclose(model(ids)[0], expected, atol=1e-6)
    chain = low.expand()
    out = x
    for part in chain:
        out = part(out)
    stock = keras.Model(x, L.GlobalAveragePooling1D()(out))
    np.testing.assert_allclose(stock(ids)[0], expected, atol=1e-6)


def test_kernel_regularizer_is_of_the_whole_table():
    layer = built(embeddings_regularizer="l1")
    full = FactorizedEmbedding.from_layer(layer, 8)
    assert float(full.losses[0]) == pytest.approx(float(layer.losses[0]), rel=1e-4)


def test_gradient_reaches_both_factors():
    low = FactorizedEmbedding.from_layer(built(), 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(low(np.array([[1, 5]]))))
    u, v = tape.gradient(loss, [low.u.value, low.v.value])
    u = tf.convert_to_tensor(u)
    assert float(tf.norm(v)) > 0.0
    rows = np.flatnonzero(np.linalg.norm(u, axis=1))
    np.testing.assert_array_equal(rows, [1, 5])


def quantized():
    layer = built()
    layer.quantize("int8")
    return layer


def with_lora():
    layer = built()
    layer.enable_lora(2)
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: L.Embedding(20, 8), "it is not built"),
        (lambda: built(embeddings_constraint="max_norm"), "kernel constraint"),
        (with_lora, "LoRA is enabled"),
        (quantized, "quantized to int8"),
        (lambda: L.Dense(3), "it is no Embedding"),
    ],
)
def test_unsupported_layers_give_a_reason(make, reason):
    with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
        FactorizedEmbedding.from_layer(make(), 2)


def test_rank_errors():
    with pytest.raises(RankError, match="at most"):
        FactorizedEmbedding.from_layer(built(), 9)


def test_it_takes_no_statistics():
    assert not FactorizedEmbedding.has_statistics
    with pytest.raises(NotImplementedError, match="takes no statistics"):
        FactorizedEmbedding.input_rows(built(), np.zeros((1, 3), "int32"), whole=True)
    moments = Moments(np.eye(3), np.zeros(3), 5)
    low = FactorizedEmbedding.from_layer(built(), 3, moments)
    plain = FactorizedEmbedding.from_layer(built(), 3)
    np.testing.assert_array_equal(low.kernel(), plain.kernel())
    np.testing.assert_allclose(
        low.truncate(2, moments).kernel(), plain.truncate(2).kernel()
    )


@pytest.fixture(scope="module")
def words():
    ids = keras.Input((6,), dtype="int32")
    x = L.Embedding(200, 32, name="words")(ids)
    x = L.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, L.Dense(40, name="head")(x))
    table = c.normal((200, 4)) @ c.normal((4, 32), 1) + 0.01 * c.normal((200, 32), 2)
    model.get_layer("words").set_weights([table])
    return model


def test_plan_takes_it_for_its_params(words):
    specs = layer_specs(words)
    plan = Energy(threshold=0.99).select(specs)
    row = {r.name: r for r in plan.rows}["words"]
    assert row.layer_type == "FactorizedEmbedding" and row.ranks == (4,)
    assert (row.before.macs, row.after.macs) == (0, 6 * 4 * 32)
    assert row.after.params == 4 * (200 + 32)
    low = factorize(words, {"words": (row.layer_type, row.ranks)})
    ids = np.arange(12).reshape(2, 6)
    assert c.relative_error(low(ids), words(ids)) < 0.05
    # Once factorized it is cut like any layer: both costs fall.
    (again,) = [s for s in layer_specs(low) if s.name == "words"]
    assert again.dense == row.before and again.cost == row.after
    cut = Fixed(ranks={"words": 2}).select(layer_specs(low), Budget(macs=0.9))
    assert {r.name: r.ranks for r in cut.rows}["words"] == (2,)


def test_plan_leaves_it_alone_where_only_macs_count(words):
    plan = Energy(threshold=0.99).select(layer_specs(words), Budget(macs=0.5))
    row = {r.name: r for r in plan.rows}["words"]
    assert not row.changed and row.reason == "it has no MACs to save"
    both = Energy(threshold=0.99).select(
        layer_specs(words), Budget(macs=0.5, params=0.5)
    )
    assert {r.name: r for r in both.rows}["words"].changed


def test_plan_keeps_a_table_that_would_grow(words):
    plan = Fixed(ranks={"words": 30}).select(layer_specs(words))
    row = {r.name: r for r in plan.rows}["words"]
    assert not row.changed and "would not make it smaller" in row.reason
