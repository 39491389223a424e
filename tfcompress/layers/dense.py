"""FactorizedDense: a Dense kernel as a product of two thin matrices."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.pair import MatrixPair
from tfcompress.layers.registry import register
from tfcompress.layers.sampling import Sample, sampled
from tfcompress.layers.support import SHARED_CONFIG, stock_layer
from tfcompress.spec import LayerSpec, positions


@register
class FactorizedDense(MatrixPair, FactorizedLayer):
    """`activation(x @ u @ v + bias)`: a Dense layer of rank `r`.

    The truncated singular value decomposition of the kernel, singular values split
    evenly between the factors (Denton et al. 2014, section 3; MUSCO's choice for
    fully connected layers).

    Args:
        units: size of the output.
        ranks: the rank `r`, at most `min(inputs, units)`.
        **kwargs: as in `FactorizedLayer`.

    Input shape: `(batch, ..., inputs)`. Output shape: `(batch, ..., units)`.

    Example:
        >>> dense = keras.layers.Dense(10)
        >>> dense.build((None, 64))
        >>> layer = FactorizedDense.from_layer(dense, 4)
        >>> layer.count_params()
        306
    """

    targets = (keras.layers.Dense,)

    def __init__(self, units: int, ranks: int, **kwargs: Any) -> None:
        super().__init__(ranks, **kwargs)
        self.units = units
        self.supports_masking = True

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        return (*SHARED_CONFIG, "units")

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        inputs, units = kernel_shape
        each = ranks[0] * (inputs + units)
        return sum(positions(call.input_shape) * each for call in spec.calls)

    @classmethod
    def input_rows(
        cls, layer: Any, inputs: Any, *, whole: bool, sample: Sample | None = None
    ) -> Any:
        return sampled(ops.reshape(inputs, (-1, inputs.shape[-1])), sample)

    def build(self, input_shape: tuple) -> None:
        self.add_factors((input_shape[-1], self.units))

    def call(self, inputs: Any) -> Any:
        return self.finish(ops.matmul(ops.matmul(inputs, self.u), self.v))

    def expand(self) -> list[keras.layers.Layer]:
        inputs, units = self.kernel_shape()
        factors, config = self.factors(), self.get_config()
        shared = {"dtype": config["dtype"], "trainable": self.trainable}
        last = {
            key: config[key]
            for key in SHARED_CONFIG
            if key not in ("name", "kernel_regularizer")
        }
        bias = [self.bias.numpy()] if self.use_bias else []
        return [
            stock_layer(
                keras.layers.Dense,
                [factors["u"]],
                (None, inputs),
                units=self.ranks[0],
                use_bias=False,
                name=f"{self.name}_u",
                **shared,
            ),
            stock_layer(
                keras.layers.Dense,
                [factors["v"], *bias],
                (None, self.ranks[0]),
                units=units,
                name=f"{self.name}_v",
                **last,
            ),
        ]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
