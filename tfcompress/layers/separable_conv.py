"""FactorizedSeparableConv1D, 2D: the pointwise part of a separable convolution cut."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import constraints, ops, regularizers

from tfcompress.layers.channel_svd_conv import ChannelSVDConv
from tfcompress.layers.conv import CONV_CONFIG, spatial
from tfcompress.layers.registry import register
from tfcompress.layers.sampling import Sample, sampled
from tfcompress.layers.support import stock_layer, to_numpy
from tfcompress.spec import LayerSpec

_DEPTHWISE = ("depth_multiplier", "depthwise_regularizer", "depthwise_constraint")


class FactorizedSeparableConv(ChannelSVDConv):
    """Base of `FactorizedSeparableConv2D` and its kin."""

    kernel_name = "pointwise_kernel"
    kept_names = ("depthwise_kernel",)
    # The stock layer of the first part; `stock` is that of the second.
    separable: ClassVar[type]

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        ranks: int | tuple[int, ...],
        *,
        depth_multiplier: int = 1,
        depthwise_regularizer: Any = None,
        depthwise_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, ranks, **kwargs)
        self.depth_multiplier = depth_multiplier
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        return (*super().config_keys(), *_DEPTHWISE)

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        each = math.prod(spec.layer.depthwise_kernel.shape)
        each += ranks[0] * sum(kernel_shape[-2:])
        return sum(math.prod(spatial(c, spec.layer)[1]) * each for c in spec.calls)

    @classmethod
    def input_rows(
        cls, layer: Any, inputs: Any, *, whole: bool, sample: Sample | None = None
    ) -> Any:
        """Rows of what the depthwise part gives: the pointwise kernel's inputs."""
        outputs = ops.depthwise_conv(
            inputs,
            ops.cast(layer.depthwise_kernel, inputs.dtype),
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        if layer.data_format == "channels_first":
            outputs = ops.moveaxis(outputs, 1, -1)
        channels = layer.depthwise_kernel.shape[-2] * layer.depth_multiplier
        return sampled(ops.reshape(outputs, (-1, channels)), sample)

    def kernel_shape(self) -> tuple[int, ...]:
        channels = self._input_channels * self.depth_multiplier
        return (*(1,) * self.dims, channels, self.filters)

    def build_shape(self, source: keras.layers.Layer) -> tuple[int | None, ...]:
        shape: list[int | None] = [None] * (self.dims + 2)
        shape[self.channel_axis()] = source.depthwise_kernel.shape[-2]
        return tuple(shape)

    def build(self, input_shape: tuple) -> None:
        channels = int(input_shape[self.channel_axis()])
        self.depthwise_kernel = self.add_weight(
            name="depthwise_kernel",
            shape=(*self.kernel_size, channels, self.depth_multiplier),
            initializer="glorot_uniform",
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
        )
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=self.dims + 2, axes={self.channel_axis(): channels}
        )

    def call(self, inputs: Any) -> Any:
        x = ops.separable_conv(
            inputs,
            self.depthwise_kernel,
            self.u,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self.finish(self.conv(x, self.v))

    def expand(self) -> list[keras.layers.Layer]:
        factors, config = self.factors(), self.get_config()
        kept = (*_DEPTHWISE, *CONV_CONFIG, "dtype", "trainable")
        first = {key: config[key] for key in kept} | {"filters": self.ranks[0]}
        return [
            stock_layer(
                self.separable,
                [to_numpy(self.depthwise_kernel), factors["u"]],
                self.build_shape(self),
                use_bias=False,
                name=f"{self.name}_u",
                **first,
            ),
            self.part("v", factors["v"], last=True),
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "depth_multiplier": self.depth_multiplier,
            "depthwise_regularizer": regularizers.serialize(self.depthwise_regularizer),
            "depthwise_constraint": constraints.serialize(self.depthwise_constraint),
        }


@register
class FactorizedSeparableConv1D(FactorizedSeparableConv):
    """`FactorizedSeparableConv2D` along one axis.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.SeparableConv1D`.
        ranks: the rank `r`, at most `min(in * depth_multiplier, filters)`.
        depth_multiplier, depthwise_regularizer, depthwise_constraint: as there.
        **kwargs: as in `FactorizedLayer`; `kernel_regularizer` is that of the
            pointwise kernel.

    Input shape: `(batch, steps, channels)`.

    Example:
        >>> conv = keras.layers.SeparableConv1D(64, 3)
        >>> conv.build((None, 32, 64))
        >>> FactorizedSeparableConv1D.from_layer(conv, 16).count_params()
        2304
    """

    targets = (keras.layers.SeparableConv1D,)
    separable = keras.layers.SeparableConv1D
    stock = keras.layers.Conv1D
    dims = 1


@register
class FactorizedSeparableConv2D(FactorizedSeparableConv):
    """A separable convolution to `r` channels, followed by a 1×1 convolution.

    The depthwise kernel, which has no channels to cut, is kept; the pointwise kernel,
    where nearly all weights are, becomes a pair of factors.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate: as in
            `keras.layers.SeparableConv2D`.
        ranks: the rank `r`, at most `min(in * depth_multiplier, filters)`.
        depth_multiplier, depthwise_regularizer, depthwise_constraint: as there.
        **kwargs: as in `FactorizedLayer`; `kernel_regularizer` is that of the
            pointwise kernel.

    Input shape: `(batch, height, width, channels)`.

    Example:
        >>> conv = keras.layers.SeparableConv2D(64, 3)
        >>> conv.build((None, 32, 32, 64))
        >>> FactorizedSeparableConv2D.from_layer(conv, 16).count_params()
        2688
    """

    targets = (keras.layers.SeparableConv2D,)
    separable = keras.layers.SeparableConv2D
    stock = keras.layers.Conv2D
    dims = 2
