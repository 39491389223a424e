"""What every type that replaces Conv2D must hold: subclass `Conv2DTypeTests`."""

import conformance as c
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfcompress.errors import RankError

L = keras.layers

CASES = {
    "1x1": (dict(filters=12, kernel_size=1, activation="relu"), (6, 6, 10)),
    "1x1 strided": (dict(filters=12, kernel_size=1, strides=2), (7, 7, 10)),
    "3x3": (dict(filters=12, kernel_size=3, activation="relu"), (8, 8, 10)),
    "3x3 same strided": (
        dict(filters=12, kernel_size=3, strides=2, padding="same", use_bias=False),
        (9, 8, 6),
    ),
    "3x3 strided by axis": (
        dict(filters=6, kernel_size=3, strides=(1, 2), padding="same"),
        (8, 9, 4),
    ),
    "3x3 valid strided": (dict(filters=6, kernel_size=3, strides=(3, 2)), (11, 9, 4)),
    "3x3 dilated": (
        dict(filters=8, kernel_size=3, dilation_rate=(2, 3), activation="gelu"),
        (11, 12, 6),
    ),
    "3x3 same dilated": (
        dict(filters=8, kernel_size=3, dilation_rate=2, padding="same"),
        (9, 9, 5),
    ),
    "5x5": (dict(filters=7, kernel_size=5, padding="same"), (8, 8, 5)),
    "even kernel": (dict(filters=7, kernel_size=(2, 4), padding="same"), (8, 8, 5)),
    "3x1": (dict(filters=8, kernel_size=(3, 1), padding="same"), (8, 8, 6)),
    "1x5": (dict(filters=8, kernel_size=(1, 5), strides=2), (9, 9, 6)),
    "one channel": (dict(filters=5, kernel_size=3, activation="tanh"), (6, 6, 1)),
    "one filter": (dict(filters=1, kernel_size=3), (6, 6, 9)),
    "512 channels": (dict(filters=8, kernel_size=3, padding="same"), (3, 3, 512)),
    "512 filters": (dict(filters=512, kernel_size=3, use_bias=False), (3, 3, 4)),
    "regularized": (
        dict(
            filters=6,
            kernel_size=3,
            kernel_regularizer="l2",
            bias_regularizer=keras.regularizers.L1(0.1),
            activity_regularizer="l2",
            bias_constraint="non_neg",
        ),
        (6, 6, 4),
    ),
    "frozen": (
        dict(filters=6, kernel_size=3, trainable=False, name="frozen_one"),
        (6, 6, 4),
    ),
}
# Conversion takes half a second each.
TFLITE = {"1x1", "3x3 same strided", "3x3 dilated", "3x1"}
MIXED = ("1x1", "3x3", "3x3 same strided", "regularized")


def built(filters=6, kernel=3, channels=4, **options):
    layer = L.Conv2D(filters, kernel, **options)
    layer.build((None, 8, 8, channels))
    return c.randomize(layer)


def other(cls, **options):
    layer = cls(**options)
    layer.build((None, 8, 8, 4))
    return layer


def with_lora():
    layer = built()
    layer.enable_lora(2)
    return layer


class Conv2DTypeTests:
    """Tests of one layer type.

    Attributes:
        cls: the layer type.
        low: ranks for a 3x3 kernel of 4 to 6 channels.
        cut: ranks below these.
        bad_ranks: ranks that such a kernel cannot have.
        unsupported: pairs of a Conv2D and the reason why this type cannot replace it.
    """

    cls = None
    low = None
    cut = None
    bad_ranks = ()
    unsupported = ()

    def check(self, layer, shape, **options):
        """Conformance; of a layer this type cannot replace, that it says so."""
        layer.build((None, *shape))
        reason = self.cls.supports(layer)
        fresh = type(layer).from_config(layer.get_config())
        if reason is None:
            c.check_layer_type(self.cls, fresh, shape, **options)
            return
        with pytest.raises(ValueError, match="cannot replace"):
            self.cls.from_layer(layer, self.low)

    @pytest.mark.parametrize("case", CASES)
    def test_conformance(self, case):
        options, shape = CASES[case]
        self.check(L.Conv2D(**options), shape, tflite=case in TFLITE)

    @pytest.mark.parametrize("case", MIXED)
    def test_conformance_in_mixed_precision(self, case):
        options, shape = CASES[case]
        self.check(L.Conv2D(**options, dtype="mixed_bfloat16"), shape)

    def test_conformance_of_any_geometry(self):
        @settings(max_examples=5, deadline=None)
        @given(st.data())
        def check(data):
            kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
            n_in, n_out = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
            strides, dilation = data.draw(
                st.sampled_from(
                    [(1, 1), (2, 1), ((2, 1), 1), (3, 1), (1, 2), (1, (2, 3))]
                )
            )
            shape = (
                data.draw(st.integers(13, 16)),
                data.draw(st.integers(13, 16)),
                n_in,
            )
            layer = L.Conv2D(
                n_out,
                kernel,
                strides=strides,
                dilation_rate=dilation,
                padding=data.draw(st.sampled_from(["same", "valid"])),
                use_bias=data.draw(st.booleans()),
            )
            layer.build((None, *shape))
            assume(self.cls.supports(layer) is None)
            largest = self.cls.max_ranks((*kernel, n_in, n_out))
            ranks = tuple(data.draw(st.integers(1, limit)) for limit in largest)
            fresh = L.Conv2D.from_config(layer.get_config())
            seed = data.draw(st.integers(0, 99))
            c.check_layer_type(self.cls, fresh, shape, ranks, seed=seed)

        check()

    def test_channels_first(self):
        """Built, cut, saved and expanded by the right axis."""
        layer = L.Conv2D(6, 3, data_format="channels_first", padding="same", strides=2)
        c.check_layer_type(self.cls, layer, (4, 9, 10))

    @pytest.mark.parametrize("regularizer", ["l2", "l1"])
    def test_kernel_regularizer_gives_the_loss_of_the_dense_layer(self, regularizer):
        dense = built(kernel_regularizer=regularizer, bias_regularizer="l2")
        largest = self.cls.max_ranks(tuple(dense.kernel.shape))
        full = self.cls.from_layer(dense, largest)
        for layer in (dense, full):
            layer(np.ones((1, 8, 8, 4), "float32"))
        expected = sorted(map(float, dense.losses))
        np.testing.assert_allclose(sorted(map(float, full.losses)), expected, rtol=1e-4)

    @pytest.mark.parametrize("regularizer", [None, "l2"])
    def test_gradient_flows_to_every_weight(self, regularizer):
        low = self.cls.from_layer(built(kernel_regularizer=regularizer), self.low)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(low(c.normal((2, 8, 8, 4)))))
            loss += sum(low.losses)
        gradients = tape.gradient(loss, [w.value for w in low.trainable_weights])
        assert len(gradients) == len(self.cls.factor_names) + 1
        for gradient in gradients:
            assert np.all(np.isfinite(gradient)) and float(tf.norm(gradient)) > 0.0

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: L.Conv2D(4, 3), "it is not built"),
            (lambda: built(kernel_constraint="max_norm"), "kernel constraint"),
            (lambda: built(groups=2), r"grouped convolution \(2 groups\)"),
            (with_lora, "LoRA is enabled"),
            (lambda: other(L.DepthwiseConv2D, kernel_size=3), "no Conv2D"),
            (lambda: other(L.SeparableConv2D, filters=4, kernel_size=3), "no Conv2D"),
            (lambda: other(L.Conv2DTranspose, filters=4, kernel_size=3), "no Conv2D"),
        ],
    )
    def test_unsupported_layers_give_a_reason(self, make, reason):
        with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
            self.cls.from_layer(make(), self.low)

    def test_kernels_of_the_wrong_shape_give_a_reason(self):
        for layer, reason in self.unsupported:
            with pytest.raises(ValueError, match=f"cannot replace layer .*{reason}"):
                self.cls.from_layer(layer, self.low)

    def test_rank_errors(self):
        for ranks in self.bad_ranks:
            with pytest.raises(RankError, match="ranks must be"):
                self.cls.from_layer(built(), ranks)

    def test_truncation_cannot_raise_a_rank(self):
        small = self.cls.from_layer(built(), self.cut)
        with pytest.raises(RankError, match="can only fall"):
            small.truncate(self.low)

    def test_zero_kernel(self):
        dense = built()
        dense.kernel.assign(np.zeros((3, 3, 4, 6)))
        low = self.cls.from_layer(dense, self.low)
        np.testing.assert_array_equal(low.kernel(), np.zeros((3, 3, 4, 6)))
        cut = low.truncate(self.cut)
        np.testing.assert_array_equal(cut.kernel(), np.zeros((3, 3, 4, 6)))

    def test_wrong_number_of_channels_is_refused(self):
        low = self.cls.from_layer(built(), self.low)
        with pytest.raises(ValueError, match="incompatible with the layer"):
            low(np.ones((1, 8, 8, 5), "float32"))
