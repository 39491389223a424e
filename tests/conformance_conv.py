"""Geometries of Conv1D and Conv3D that every type replacing them must hold."""

import conformance as c
import keras
import pytest

L = keras.layers

CONV1D = {
    "1": (dict(filters=12, kernel_size=1, activation="relu"), (7, 10)),
    "3": (dict(filters=12, kernel_size=3, activation="relu"), (9, 10)),
    "strided": (dict(filters=6, kernel_size=3, strides=3, use_bias=False), (11, 5)),
    "same strided": (
        dict(filters=6, kernel_size=4, strides=2, padding="same"),
        (9, 5),
    ),
    "same dilated": (
        dict(filters=8, kernel_size=3, dilation_rate=2, padding="same"),
        (9, 6),
    ),
    "causal": (dict(filters=8, kernel_size=3, padding="causal"), (9, 6)),
    "causal dilated": (
        dict(filters=8, kernel_size=5, padding="causal", dilation_rate=3),
        (9, 6),
    ),
    "causal strided": (
        dict(filters=8, kernel_size=3, padding="causal", strides=2),
        (10, 6),
    ),
    "one channel": (dict(filters=5, kernel_size=3), (9, 1)),
    "channels first": (
        dict(filters=6, kernel_size=3, data_format="channels_first", strides=2),
        (5, 9),
    ),
    "causal channels first": (
        dict(
            filters=6,
            kernel_size=3,
            data_format="channels_first",
            padding="causal",
            dilation_rate=2,
        ),
        (5, 9),
    ),
    "regularized": (
        dict(filters=6, kernel_size=3, kernel_regularizer="l2", bias_regularizer="l1"),
        (9, 4),
    ),
    "mixed precision": (
        dict(filters=6, kernel_size=3, dtype="mixed_bfloat16"),
        (9, 4),
    ),
}
CONV3D = {
    "1": (dict(filters=7, kernel_size=1, activation="relu"), (3, 4, 5, 6)),
    "3": (dict(filters=7, kernel_size=3), (5, 4, 6, 6)),
    "strided": (
        dict(filters=6, kernel_size=(2, 3, 1), strides=(2, 1, 3), use_bias=False),
        (4, 5, 7, 4),
    ),
    "same strided": (
        dict(filters=6, kernel_size=3, strides=2, padding="same"),
        (4, 5, 3, 5),
    ),
    "same dilated": (
        dict(filters=5, kernel_size=2, dilation_rate=(2, 1, 2), padding="same"),
        (5, 4, 5, 4),
    ),
    "channels first": (
        dict(filters=6, kernel_size=3, data_format="channels_first", padding="same"),
        (4, 3, 4, 5),
    ),
    "mixed precision": (
        dict(filters=6, kernel_size=3, dtype="mixed_bfloat16"),
        (4, 4, 4, 4),
    ),
}
CASES = [
    *((L.Conv1D, name, *case) for name, case in CONV1D.items()),
    *((L.Conv3D, name, *case) for name, case in CONV3D.items()),
]
TFLITE = {(L.Conv1D, "causal dilated"), (L.Conv3D, "same strided")}


def each_case(function):
    """Parametrizes a test with `stock`, `name`, `options` and `shape`."""
    ids = [f"{stock.__name__} {name}" for stock, name, *_ in CASES]
    names = ("stock", "name", "options", "shape")
    return pytest.mark.parametrize(names, CASES, ids=ids)(function)


def check(cls, stock, name, options, shape):
    """Conformance; of a layer this type cannot replace, that it says so."""
    layer = stock(**options)
    layer.build((None, *shape))
    if cls.supports(layer) is None:
        tflite = (stock, name) in TFLITE
        c.check_layer_type(cls, stock(**options), shape, tflite=tflite)
        return
    with pytest.raises(ValueError, match="cannot replace"):
        cls.from_layer(layer, (1,) * cls.rank_count)
