"""Factorized Keras layers. Every module of this folder registers its own type."""

import importlib
import pkgutil

from tfcompress.layers import registry
from tfcompress.layers.base import FactorizedLayer, kernel_shape_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

from tfcompress.layers.channel_svd_conv2d import ChannelSVDConv2D  # noqa: E402
from tfcompress.layers.dense import FactorizedDense  # noqa: E402
from tfcompress.layers.spatial_svd_conv2d import SpatialSVDConv2D  # noqa: E402
from tfcompress.layers.tucker2_conv2d import Tucker2Conv2D  # noqa: E402

__all__ = [
    "ChannelSVDConv2D",
    "FactorizedDense",
    "FactorizedLayer",
    "SpatialSVDConv2D",
    "Tucker2Conv2D",
    "kernel_shape_of",
    "registry",
]
