"""Factorized Keras layers. Every module of this folder registers its own type."""

import importlib
import pkgutil

from tfcompress.layers import registry
from tfcompress.layers.base import FactorizedLayer
from tfcompress.layers.interface import kernel_of, kernel_shape_of, kernel_variable

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

from tfcompress.layers.attention import (  # noqa: E402
    FactorizedGroupedQueryAttention,
    FactorizedMultiHeadAttention,
)
from tfcompress.layers.channel_svd_conv import (  # noqa: E402
    ChannelSVDConv1D,
    ChannelSVDConv2D,
    ChannelSVDConv3D,
)
from tfcompress.layers.cp_conv2d import CPConv2D  # noqa: E402
from tfcompress.layers.dense import FactorizedDense  # noqa: E402
from tfcompress.layers.einsum_dense import FactorizedEinsumDense  # noqa: E402
from tfcompress.layers.embedding import FactorizedEmbedding  # noqa: E402
from tfcompress.layers.separable_conv import (  # noqa: E402
    FactorizedSeparableConv1D,
    FactorizedSeparableConv2D,
)
from tfcompress.layers.spatial_svd_conv2d import SpatialSVDConv2D  # noqa: E402
from tfcompress.layers.tucker2_conv import (  # noqa: E402
    Tucker2Conv1D,
    Tucker2Conv2D,
    Tucker2Conv3D,
)

__all__ = [
    "CPConv2D",
    "ChannelSVDConv1D",
    "ChannelSVDConv2D",
    "ChannelSVDConv3D",
    "FactorizedDense",
    "FactorizedEinsumDense",
    "FactorizedEmbedding",
    "FactorizedGroupedQueryAttention",
    "FactorizedLayer",
    "FactorizedMultiHeadAttention",
    "FactorizedSeparableConv1D",
    "FactorizedSeparableConv2D",
    "SpatialSVDConv2D",
    "Tucker2Conv1D",
    "Tucker2Conv2D",
    "Tucker2Conv3D",
    "kernel_of",
    "kernel_shape_of",
    "kernel_variable",
    "registry",
]
