"""FactorizedEmbedding: a narrow table, then a matrix up to the full width."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.pair import MatrixPair
from tfcompress.layers.registry import register
from tfcompress.layers.support import stock_layer
from tfcompress.spec import LayerSpec


@register
class FactorizedEmbedding(MatrixPair, FactorizedLayer):
    """`u[ids] @ v`: an embedding of `r` numbers for each id, brought up to the width.

    The factorized embedding of ALBERT (Lan et al. 2020, section 3.1). It saves
    weights, not work: a lookup has no multiplications, this has `r * output_dim` for
    each id. So a plan takes it for its params and bytes alone.

    Args:
        input_dim: number of ids.
        output_dim: width of the embedding.
        ranks: the rank `r`, at most `min(input_dim, output_dim)`.
        mask_zero: whether id 0 is padding, as in `keras.layers.Embedding`.
        **kwargs: `kernel_regularizer` (of the whole table), `activity_regularizer`,
            `name`, `dtype` and `trainable`.

    Input shape: `(batch, ...)` of integers. Output shape: `(batch, ..., output_dim)`.

    Example:
        >>> words = keras.layers.Embedding(1000, 64)
        >>> words.build()
        >>> FactorizedEmbedding.from_layer(words, 8).count_params()
        8512
    """

    targets = (keras.layers.Embedding,)
    kernel_name = "embeddings"
    # A metric of ids would be as large as the table is long, squared.
    has_statistics = False

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        ranks: int,
        *,
        mask_zero: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(ranks, use_bias=False, **kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        # Inputs are ids: a cast to float16 would change the large ones.
        self.autocast = False

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        return (
            "name",
            "trainable",
            "dtype",
            "kernel_regularizer",
            "activity_regularizer",
            "input_dim",
            "output_dim",
            "mask_zero",
        )

    @classmethod
    def takes_mean(cls, layer: Any) -> bool:
        return False

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        each = ranks[0] * kernel_shape[1]
        return sum(math.prod(call.input_shape) * each for call in spec.calls)

    def build_shape(self, source: keras.layers.Layer) -> tuple[int | None, ...]:
        return (None,)

    def build(self, input_shape: tuple | None = None) -> None:
        self.add_factors((self.input_dim, self.output_dim))
        self.input_spec = None

    def call(self, inputs: Any) -> Any:
        if inputs.dtype != "int32" and inputs.dtype != "int64":
            inputs = ops.cast(inputs, "int32")
        rows = ops.cast(ops.take(self.u, inputs, axis=0), self.compute_dtype)
        return ops.matmul(rows, ops.cast(self.v, self.compute_dtype))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def expand(self) -> list[keras.layers.Layer]:
        factors, config = self.factors(), self.get_config()
        shared = {"dtype": config["dtype"], "trainable": self.trainable}
        return [
            stock_layer(
                keras.layers.Embedding,
                [factors["u"]],
                (None,),
                input_dim=self.input_dim,
                output_dim=self.ranks[0],
                mask_zero=self.mask_zero,
                name=f"{self.name}_u",
                **shared,
            ),
            stock_layer(
                keras.layers.Dense,
                [factors["v"]],
                (None, self.ranks[0]),
                units=self.output_dim,
                use_bias=False,
                activity_regularizer=config["activity_regularizer"],
                name=f"{self.name}_v",
                **shared,
            ),
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "mask_zero": self.mask_zero,
        }
