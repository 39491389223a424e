"""Small reference networks for the demo, the tests and the benchmarks.

Weights depend on the arguments and `seed` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfcompress.errors import nearest
from tfcompress.models.classifiers import resnet, vgg, vit
from tfcompress.models.pictures import detector, regressor, unet

NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "resnet": resnet,
    "vgg": vgg,
    "vit": vit,
    "detector": detector,
    "unet": unet,
    "regressor": regressor,
}

__all__ = [*NETWORKS, "NETWORKS", "build"]  # noqa: PLE0604


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    **options: Any,
) -> keras.Model:
    """A reference network by name.

    Raises:
        ValueError: no such network, or an option it does not take.
    """
    if name not in NETWORKS:
        raise ValueError(f"No network '{name}'; {nearest(name, NETWORKS)}")
    try:
        return NETWORKS[name](input_shape, num_classes, **options)
    except TypeError as error:
        raise ValueError(f"Network '{name}': {error}") from error
