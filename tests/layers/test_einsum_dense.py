"""FactorizedEinsumDense against the EinsumDense layer it replaces."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.cost import layer_specs
from tfcompress.errors import RankError
from tfcompress.layers import FactorizedDense, FactorizedEinsumDense, kernel_of
from tfcompress.layers.equation import projection
from tfcompress.layers.sampling import Sample
from tfcompress.linalg import Moments

L = keras.layers

# equation, output shape, bias axes, input shape
CASES = {
    "dense": ("ab,bc->ac", 9, "c", (12,)),
    "sequence": ("abc,cd->abd", (None, 9), "d", (5, 12)),
    "query": ("abc,cde->abde", (None, 2, 5), "de", (5, 12)),
    "attention output": ("abcd,cde->abe", (None, 9), "e", (5, 3, 4)),
    "grid of queries": ("abcd,def->abcef", (None, None, 2, 4), "ef", (3, 2, 7)),
    "kernel backwards": ("abc,edc->abde", (None, 2, 5), None, (5, 12)),
    "kernel mixed": ("abcd,edfc->abfe", (None, 4, 5), "fe", (5, 3, 4)),
    "outputs in front": ("abc,cd->adb", (9, 5), "d", (5, 12)),
    "bias of one axis": ("abc,cde->abde", (None, 2, 5), "d", (5, 12)),
    "bias of positions": ("abc,cd->abd", (5, 9), "bd", (5, 12)),
    "ellipsis": ("...x,xy->...y", 9, "y", (2, 3, 12)),
    "ellipsis of the batch": ("...x,xyz->...yz", (3, 2), "yz", (12,)),
    "ellipsis behind": ("ab...,bc->ac...", 7, "c", (6, 3, 2)),
    "one input": ("abc,cd->abd", (None, 9), None, (5, 1)),
}
TFLITE = {"query", "attention output", "kernel mixed", "ellipsis"}


def stock(case, **options):
    equation, output_shape, bias_axes, shape = CASES[case]
    layer = L.EinsumDense(equation, output_shape, bias_axes=bias_axes, **options)
    return layer, shape


def built(case="query", **options):
    layer, shape = stock(case, **options)
    layer.build((None, *shape))
    return c.randomize(layer)


@pytest.mark.parametrize("case", CASES)
def test_conformance(case):
    layer, shape = stock(case, activation="relu")
    c.check_layer_type(FactorizedEinsumDense, layer, shape, tflite=case in TFLITE)


@pytest.mark.parametrize(
    "options",
    [
        dict(dtype="mixed_bfloat16"),
        dict(trainable=False, name="frozen_one"),
        dict(
            kernel_regularizer="l2",
            bias_regularizer=keras.regularizers.L1(0.1),
            activity_regularizer="l2",
            bias_constraint="non_neg",
        ),
    ],
    ids=["mixed", "frozen", "regularized"],
)
def test_conformance_with_options(options):
    layer, shape = stock("query", **options)
    c.check_layer_type(FactorizedEinsumDense, layer, shape)


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_conformance_of_any_dense_map(data):
    """Axes of the kernel in any order, free axes in any places but the first."""
    free = data.draw(st.lists(st.integers(1, 3), max_size=2))
    contracted = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    new = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    labels = iter("bcdefgh")
    sizes = {}
    groups = []
    for group in (free, contracted, new):
        names = [next(labels) for _ in group]
        sizes |= dict(zip(names, group, strict=True))
        groups.append(names)
    inputs = data.draw(st.permutations(groups[0] + groups[1]))
    outputs = data.draw(st.permutations(groups[0] + groups[2]))
    kernel = data.draw(st.permutations(groups[1] + groups[2]))
    equation = f"a{''.join(inputs)},{''.join(kernel)}->a{''.join(outputs)}"
    bias = "".join(x for x in outputs if x in groups[2])
    layer = L.EinsumDense(equation, [sizes[x] for x in outputs], bias_axes=bias)
    shape = tuple(sizes[x] for x in inputs)
    c.check_layer_type(FactorizedEinsumDense, layer, shape)


def test_dense_map_gives_what_dense_gives():
    layer = built("dense")
    dense = L.Dense(9)
    dense.build((None, 12))
    dense.set_weights(layer.get_weights())
    x = c.normal((4, 12))
    low, other = (
        cls.from_layer(one, 4)
        for cls, one in ((FactorizedEinsumDense, layer), (FactorizedDense, dense))
    )
    np.testing.assert_allclose(low(x), other(x), atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "shape", "sizes", "reason"),
    [
        ("abc,abd->abcd", (2, 3), (2, 3, 4), "one matrix for each"),
        ("abc,bcd->abd", (2, 3), (2, 4), "one matrix for each 'b'"),
        ("abc,cd->ad", (2, 3), 4, "no dense map"),
        ("ab,c->abc", (3,), (3, 4), "no dense map"),
        ("abc,c->ab", (2, 3), (2,), "no dense map"),
    ],
)
def test_equations_that_are_no_dense_map_give_a_reason(equation, shape, sizes, reason):
    layer = L.EinsumDense(equation, sizes)
    layer.build((1, *shape))
    with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
        FactorizedEinsumDense.from_layer(layer, 1)
    # Its cost is counted all the same, where Keras can run it.
    if "batch" not in reason and equation != "abc,abd->abcd":
        inputs = keras.Input(shape, batch_size=1)
        specs = layer_specs(keras.Model(inputs, layer(inputs)))
        assert specs[-1].cost.macs > 0 and specs[-1].options == ()


@pytest.mark.parametrize("equation", ["ab,bc", "ab,bc->ac,d", "aab,bc->ac", "", "a->b"])
def test_what_is_no_equation(equation):
    with pytest.raises(ValueError, match="not of a known form|no dense map"):
        projection(equation)


def test_labels_may_be_of_either_case():
    axes = projection("aBc,cDe->aBDe")
    assert (axes.contracted, axes.new) == ("c", "De")
    first, second = axes.equations()
    x, kernel = c.normal((2, 3, 4)), c.normal((4, 5, 6), 1)
    eye = np.eye(4, dtype="float32")
    np.testing.assert_allclose(
        np.einsum(second, np.einsum(first, x, eye), kernel),
        np.einsum("aBc,cDe->aBDe", x, kernel),
        rtol=1e-5,
    )


def with_lora():
    layer = built()
    layer.enable_lora(2)
    return layer


def quantized():
    layer = built()
    layer.quantize("int8")
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: stock("query")[0], "it is not built"),
        (lambda: built(kernel_constraint="max_norm"), "kernel constraint"),
        (with_lora, "LoRA is enabled"),
        (quantized, "quantized to int8"),
        (lambda: L.Dense(3), "it is no EinsumDense"),
    ],
)
def test_unsupported_layers_give_a_reason(make, reason):
    with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
        FactorizedEinsumDense.from_layer(make(), 2)


def test_ranks_go_up_to_the_smaller_side():
    assert FactorizedEinsumDense.from_layer(built(), 10).ranks == (10,)
    with pytest.raises(RankError, match=r"at most \(10,\) for a kernel of shape"):
        FactorizedEinsumDense.from_layer(built(), 11)


@pytest.mark.parametrize("regularizer", ["l1", "l2"])
def test_kernel_regularizer_gives_the_loss_of_the_stock_layer(regularizer):
    layer = built(kernel_regularizer=regularizer, bias_regularizer="l2")
    full = FactorizedEinsumDense.from_layer(layer, 10)
    expected = sorted(map(float, layer.losses))
    np.testing.assert_allclose(sorted(map(float, full.losses)), expected, rtol=1e-4)


def test_regularizer_of_matrices_sees_the_layout_of_the_stock_layer():
    """Rows and columns count differently here, and the kernel lies on its side."""
    layer = L.EinsumDense("ab,cb->ac", 4, kernel_regularizer="orthogonal_regularizer")
    layer.build((None, 7))
    full = FactorizedEinsumDense.from_layer(c.randomize(layer), 4)
    assert float(full.losses[0]) == pytest.approx(float(layer.losses[0]), rel=1e-4)


def test_gradient_flows_to_every_weight():
    low = FactorizedEinsumDense.from_layer(built(), 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(low(c.normal((4, 5, 12)))))
    gradients = tape.gradient(loss, [w.value for w in low.trainable_weights])
    assert len(gradients) == 3
    for gradient in gradients:
        assert np.all(np.isfinite(gradient)) and float(tf.norm(gradient)) > 0.0


@pytest.mark.parametrize("case", CASES)
def test_input_rows_are_what_the_kernel_is_multiplied_with(case):
    layer = built(case)
    shape = CASES[case][3]
    x = c.normal((3, *shape))
    rows = FactorizedEinsumDense.input_rows(layer, x, whole=True)
    layer.bias = None
    outputs = np.sort(np.ravel(layer(x)))
    found = np.sort(np.ravel(np.array(rows) @ kernel_of(layer)))
    np.testing.assert_allclose(found, outputs, atol=1e-4)
    few = FactorizedEinsumDense.input_rows(layer, x, whole=True, sample=Sample(1))
    assert 1 <= len(few) <= len(rows)


def moments_of(layer, x):
    rows = np.array(FactorizedEinsumDense.input_rows(layer, x, whole=True), np.float64)
    return Moments(rows.T @ rows / len(rows), rows.mean(0), len(rows))


@pytest.mark.parametrize(
    "case", ["query", "kernel mixed", "ellipsis behind", "bias of positions"]
)
def test_statistics_keep_the_mean_of_the_outputs(case):
    """Inputs far from zero, in few directions; the bias takes up the mean."""
    layer = built(case)
    shape = CASES[case][3]
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    mixing = rng.normal(size=(size, size)) * np.arange(1, size + 1) ** -1.0
    x = (3.0 + rng.normal(size=(200, size)) @ mixing).reshape(-1, *shape)
    x = x.astype("float32")
    moments = moments_of(layer, x)
    plain = FactorizedEinsumDense.from_layer(layer, 3)
    aware = FactorizedEinsumDense.from_layer(layer, 3, moments)
    right = np.array(layer(x))
    errors = [np.mean(np.square(new(x) - right)) for new in (plain, aware)]
    assert errors[1] < 0.5 * errors[0]
    means = np.array(aware(x)).mean(0) - right.mean(0)
    if case == "query":
        assert np.abs(means.mean(0)).max() < 1e-3 * np.abs(right).max()
    cut = aware.truncate(2, moments)
    assert np.mean(np.square(cut(x) - right)) >= errors[1]
    assert cut.bias.shape == layer.bias.shape


def test_bias_of_some_outputs_is_left_alone():
    """It cannot take up the mean of each output, so the mean counts as error."""
    layer = built("bias of one axis")
    x = 3.0 + c.normal((50, 5, 12))
    moments = moments_of(layer, x)
    low = FactorizedEinsumDense.from_layer(layer, 2, moments)
    np.testing.assert_array_equal(low.bias, layer.bias)
    assert FactorizedEinsumDense.metric(layer, moments) is moments
    assert FactorizedEinsumDense.metric(built(), moments) is not moments


def test_merged_is_one_stock_layer():
    layer = built(activation="gelu", trainable=False)
    low = FactorizedEinsumDense.from_layer(layer, 3)
    merged = low.merged()
    assert type(merged) is L.EinsumDense and merged.name == layer.name
    assert merged.trainable is False
    x = c.normal((2, 5, 12))
    np.testing.assert_allclose(merged(x), low(x), atol=1e-5)
    assert merged.count_params() == layer.count_params()
