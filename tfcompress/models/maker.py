"""Named, seeded layers: two builds of one network are equal."""

from __future__ import annotations

import itertools
from typing import Any

import keras
from keras import layers


class Maker:
    """Makes the layers of one network, each with a seed of its own.

    Args:
        seed: of the network.
    """

    def __init__(self, seed: int) -> None:
        self._seeds = itertools.count(1000 * seed + 1)

    def conv(
        self, x: Any, filters: int, size: int, name: str, *, strides: int = 1
    ) -> Any:
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.HeNormal(seed=next(self._seeds)),
            name=name,
        )(x)

    def conv_norm(
        self,
        x: Any,
        filters: int,
        size: int,
        name: str,
        *,
        strides: int = 1,
        relu: bool = True,
    ) -> Any:
        x = self.conv(x, filters, size, f"{name}_conv", strides=strides)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def upsampling(self, x: Any, filters: int, name: str) -> Any:
        """Twice the height and width, by a transposed convolution."""
        return layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            padding="same",
            kernel_initializer=keras.initializers.HeNormal(seed=next(self._seeds)),
            name=f"{name}_transposed",
        )(x)

    def dense(self, x: Any, units: int, name: str, **kwargs: Any) -> Any:
        initializer = keras.initializers.GlorotUniform(seed=next(self._seeds))
        return layers.Dense(units, kernel_initializer=initializer, name=name, **kwargs)(
            x
        )

    def attention(self, x: Any, heads: int, name: str) -> Any:
        """Self-attention of the width of its inputs."""
        width = x.shape[-1]
        layer = layers.MultiHeadAttention(heads, width // heads, name=name)
        y = layer(x, x)
        # One seeded initializer would give all projections the same weights.
        for part in (layer.query_dense, layer.key_dense, layer.value_dense):
            self._fill(part.kernel, (width, width))
        self._fill(layer.output_dense.kernel, (width, width))
        return y

    def _fill(self, kernel: Any, matrix_shape: tuple[int, int]) -> None:
        initializer = keras.initializers.GlorotUniform(seed=next(self._seeds))
        kernel.assign(keras.ops.reshape(initializer(matrix_shape), kernel.shape))

    def positions(self, x: Any, name: str) -> Any:
        """Adds a learned embedding of its place to every token."""
        ones = keras.ops.ones_like(x[:, :, 0], dtype="int32")
        table = layers.Embedding(
            x.shape[1],
            x.shape[2],
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=0.02, seed=next(self._seeds)
            ),
            name=name,
        )
        places = keras.ops.cumsum(ones, axis=1) - 1
        return layers.Add(name=f"{name}_add")([x, table(places)])
