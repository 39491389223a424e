"""What the factorized forms of Conv2D share: geometry, arguments, stock parts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.support import SHARED_CONFIG, stock_layer, unsupported_reason
from tfcompress.spec import Call

CONV_CONFIG = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
)


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class FactorizedConv2D(FactorizedLayer):
    """Base of layers that replace `keras.layers.Conv2D` (ungrouped).

    Args:
        filters: number of output channels.
        kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.Conv2D`.
        ranks: see the subclass.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height,
    width)` for `channels_first`. Output shape: as of the Conv2D.
    """

    targets = (keras.layers.Conv2D,)

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        ranks: int | tuple[int, ...],
        *,
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        **kwargs: Any,
    ) -> None:
        super().__init__(ranks, **kwargs)
        self.filters = filters
        self.kernel_size = _two(kernel_size)
        self.strides = _two(strides)
        self.padding = padding
        self.data_format = data_format or keras.config.image_data_format()
        self.dilation_rate = _two(dilation_rate)

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        if layer.groups != 1:
            return f"grouped convolution ({layer.groups} groups): no factorized type"
        return unsupported_reason(layer)

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        return (*SHARED_CONFIG, *CONV_CONFIG)

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
        strides: tuple[int, int] = (1, 1),
        dilation_rate: tuple[int, int] = (1, 1),
    ) -> Any:
        """One factor's convolution, with this layer's padding and data format."""
        return ops.conv(
            inputs,
            kernel,
            strides=strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=dilation_rate,
        )

    def part(
        self, suffix: str, kernel: np.ndarray, *, last: bool = False, **config: Any
    ) -> keras.layers.Layer:
        """One factor as a built stock Conv2D; the last part takes bias, activation."""
        own = self.get_config()
        shared = {
            "name": f"{self.name}_{suffix}",
            "trainable": self.trainable,
            "dtype": own["dtype"],
            "padding": self.padding,
            "data_format": self.data_format,
            "use_bias": False,
        }
        weights = [kernel]
        if last:
            skip = ("name", "trainable", "dtype", "kernel_regularizer")
            shared |= {key: own[key] for key in SHARED_CONFIG if key not in skip}
            weights += [self.bias.numpy()] if self.use_bias else []
        shape: list[int | None] = [None] * 4
        shape[self.channel_axis()] = kernel.shape[2]
        return stock_layer(
            keras.layers.Conv2D,
            weights,
            tuple(shape),
            filters=kernel.shape[3],
            kernel_size=kernel.shape[:2],
            **shared,
            **config,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{key: getattr(self, key) for key in CONV_CONFIG},
        }


def spatial(call: Call, layer: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """`((in_h, in_w), (out_h, out_w))` of a call of a convolution."""
    axes = slice(0, 2) if layer.data_format == "channels_last" else slice(1, 3)
    return call.input_shape[axes], call.output_shape[axes]
