"""What the factorized convolutions share: geometry, arguments, stock parts."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.sampling import Sample, sampled
from tfcompress.layers.support import (
    SHARED_CONFIG,
    stock_layer,
)
from tfcompress.spec import Call

CONV_CONFIG = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
)


class FactorizedConv(FactorizedLayer):
    """Base of layers that replace an ungrouped Conv1D, Conv2D or Conv3D.

    Args:
        filters: number of output channels.
        kernel_size, strides, padding, data_format, dilation_rate: as in the Keras
            layer.
        ranks: see the subclass.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, *sizes, channels)`, or `(batch, channels, *sizes)` for
    `channels_first`, with one, two or three sizes. Output shape: as of the layer it
    stands for.
    """

    stock: ClassVar[type]
    dims: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        ranks: int | tuple[int, ...],
        *,
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(ranks, **kwargs)
        self.filters = filters
        self.kernel_size = self._sizes(kernel_size)
        self.strides = self._sizes(strides)
        self.padding = padding
        self.data_format = data_format or keras.config.image_data_format()
        self.dilation_rate = self._sizes(dilation_rate)

    def _sizes(self, value: Any) -> tuple[int, ...]:
        return (value,) * self.dims if isinstance(value, int) else tuple(value)

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        # Separable convolutions have no groups.
        if getattr(layer, "groups", 1) != 1:
            return f"grouped convolution ({layer.groups} groups): no factorized type"
        return super().supports(layer)

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        return (*SHARED_CONFIG, *CONV_CONFIG)

    @classmethod
    def input_rows(
        cls, layer: Any, inputs: Any, *, whole: bool, sample: Sample | None = None
    ) -> Any:
        if layer.data_format == "channels_first":
            inputs = ops.moveaxis(inputs, 1, -1)
        if whole:
            return patches(inputs, layer, sample)
        return sampled(ops.reshape(inputs, (-1, inputs.shape[-1])), sample)

    def channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def kernel_shape(self) -> tuple[int, ...]:
        return (*self.kernel_size, self._input_channels, self.filters)

    def build(self, input_shape: tuple) -> None:
        # `from_layer` builds by channel count alone; a saved layer by a full shape.
        self._input_channels = int(input_shape[self.channel_axis()])
        self.add_factors(self.kernel_shape())

    def conv(
        self,
        inputs: Any,
        kernel: Any,
        *,
        strides: int | tuple[int, ...] = 1,
        dilation_rate: int | tuple[int, ...] = 1,
    ) -> Any:
        """One factor's convolution, with this layer's padding and data format."""
        padding = self.padding
        if padding == "causal":
            reach = self._sizes(dilation_rate)[0] * (kernel.shape[0] - 1)
            before = [(0, 0)] * len(inputs.shape)
            before[1 if self.data_format == "channels_last" else 2] = (reach, 0)
            inputs, padding = ops.pad(inputs, before), "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=strides,
            padding=padding,
            data_format=self.data_format,
            dilation_rate=dilation_rate,
        )

    def part(
        self, suffix: str, kernel: np.ndarray, *, last: bool = False, **config: Any
    ) -> keras.layers.Layer:
        """One factor as a built stock layer; the last part takes bias, activation."""
        own = self.get_config()
        shared = {
            "name": f"{self.name}_{suffix}",
            "dtype": own["dtype"],
            "trainable": self.trainable,
            "padding": self.padding,
            "data_format": self.data_format,
            "use_bias": False,
        }
        weights = [kernel]
        if last:
            keys = (key for key in SHARED_CONFIG if key not in ("name", *shared))
            shared |= {key: own[key] for key in keys if key != "kernel_regularizer"}
            shared["use_bias"] = self.use_bias
            weights += [ops.convert_to_numpy(self.bias)] if self.use_bias else []
        shape: list[int | None] = [None] * (self.dims + 2)
        shape[self.channel_axis()] = kernel.shape[-2]
        return stock_layer(
            self.stock,
            weights,
            tuple(shape),
            filters=kernel.shape[-1],
            kernel_size=kernel.shape[:-2],
            **shared,
            **config,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{key: getattr(self, key) for key in CONV_CONFIG},
        }


def pointwise(matrix: np.ndarray, dims: int) -> np.ndarray:
    """A matrix `(in, out)` as the kernel of a 1×1 convolution."""
    return matrix.reshape((1,) * dims + matrix.shape)


def spatial(call: Call, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(input sizes, output sizes)` of a call of a convolution."""
    last = layer.data_format == "channels_last"
    axes = slice(None, -1) if last else slice(1, None)
    return call.input_shape[axes], call.output_shape[axes]


def patches(inputs: Any, layer: Any, sample: Sample | None = None) -> Any:
    """The patches a convolution sees: `(rows, taps * in)`.

    Args:
        inputs: channels last.
        layer: has `kernel_size`, `strides`, `padding` and `dilation_rate`.
        sample: which patches are taken; those left out are never made.
    """
    kernel, dilation = layer.kernel_size, layer.dilation_rate
    channels = inputs.shape[-1]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if layer.padding != "valid":
        inputs = _padded(inputs, spans, layer)
    shape = tf.shape(inputs)
    sizes = [
        (shape[axis + 1] - span) // stride + 1
        for axis, (span, stride) in enumerate(zip(spans, layer.strides, strict=True))
    ]
    # Corner of every wanted patch, as an index into all pixels.
    places = tf.reduce_prod([shape[0], *sizes])
    left = tf.range(places) if sample is None else sample.places(places)
    left = tf.cast(left, tf.int32)
    corners = []
    for size, stride in zip(sizes[::-1], layer.strides[::-1], strict=True):
        corners.append(left % size * stride)
        left = left // size
    first = left
    for axis, corner in enumerate(corners[::-1]):
        first = first * shape[axis + 1] + corner
    pixels = tf.reshape(inputs, (-1, channels))
    taps = []
    for tap in np.ndindex(*kernel):
        offset = 0
        for axis, place in enumerate(tap):
            offset = offset * shape[axis + 1] + place * dilation[axis]
        taps.append(tf.gather(pixels, first + offset))
    return tf.concat(taps, axis=-1)


def _padded(inputs: Any, spans: list[int], layer: Any) -> Any:
    """Inputs with the zeros that the padding of a convolution stands for."""
    sizes = tf.shape(inputs)[1:-1]
    pads: list[Any] = [(0, 0)]
    for axis, (span, stride) in enumerate(zip(spans, layer.strides, strict=True)):
        if layer.padding == "causal":
            pads.append((span - 1, 0))
            continue
        steps = (sizes[axis] + stride - 1) // stride
        total = tf.maximum((steps - 1) * stride + span - sizes[axis], 0)
        pads.append((total // 2, total - total // 2))
    return tf.pad(inputs, [*pads, (0, 0)])
