"""Networks for other tasks than classification: detection, segmentation, regression."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfcompress.models.maker import Maker

# Numbers of a box in a detector's cell: distances of its sides from the cell's middle.
BOX = 4
# Pixels of a detector's cell, per side.
STRIDE = 8


def detector(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 32,
    seed: int = 0,
) -> keras.Model:
    """A single-shot detector without anchors (Zhou et al. 2019, "Objects as points").

    Each cell of `STRIDE` pixels gives, in one tensor, a logit for each class (is the
    middle of such an object here?) and the distances of the box's sides from the
    cell's middle, top, left, bottom, right, in cells.

    Args:
        input_shape: `(height, width, channels)`; multiples of `STRIDE`.
        num_classes: number of classes.
        width: channels of the first stage; doubled in the second and third.
        seed: of the initial weights.

    Returns:
        A functional model giving `(batch, height / 8, width / 8, num_classes + 4)`.

    Raises:
        ValueError: images that cells do not fill.
    """
    _check_multiple(input_shape, STRIDE)
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x = make.conv_norm(inputs, width, 3, "stem", strides=2)
    for stage in range(3):
        x = _residual(make, x, width * 2**stage, f"stage{stage + 1}", stage > 0)
    x = make.conv_norm(x, 4 * width, 3, "head")
    # Hardly any cell holds an object: said by the bias, or the first steps are lost.
    seldom = keras.ops.log(0.02 / 0.98)
    classes = layers.Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01, seed=seed),
        bias_initializer=keras.initializers.Constant(float(seldom)),
        name="classes",
    )(x)
    boxes = layers.Conv2D(
        BOX,
        1,
        kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01, seed=seed + 1),
        bias_initializer="ones",
        name="boxes",
    )(x)
    outputs = layers.Concatenate(name="cells")([classes, boxes])
    return keras.Model(inputs, outputs, name="detector")


def unet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 2,
    seed: int = 0,
) -> keras.Model:
    """A U-Net with transposed convolutions (Ronneberger et al. 2015).

    Args:
        input_shape: `(height, width, channels)`; multiples of `2 ** depth`.
        num_classes: classes of a pixel.
        width: channels at full resolution; doubled at each lower one.
        depth: how often the resolution is halved.
        seed: of the initial weights.

    Returns:
        A functional model giving logits `(batch, height, width, num_classes)`.

    Raises:
        ValueError: images that cannot be halved that often.
    """
    _check_multiple(input_shape, 2**depth)
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x, kept = inputs, []
    for level in range(depth):
        x = _twice(make, x, width * 2**level, f"down{level + 1}")
        kept.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level + 1}_pool")(x)
    x = _twice(make, x, width * 2**depth, "bottom")
    for level in reversed(range(depth)):
        filters = width * 2**level
        x = make.upsampling(x, filters, f"up{level + 1}")
        x = layers.Concatenate(name=f"up{level + 1}_join")([x, kept[level]])
        x = _twice(make, x, filters, f"up{level + 1}")
    logits = layers.Conv2D(
        num_classes,
        1,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        name="logits",
    )(x)
    return keras.Model(inputs, logits, name="unet")


def regressor(
    input_shape: tuple[int, int, int],
    outputs: tuple[str, ...],
    *,
    width: int = 16,
    seed: int = 0,
) -> keras.Model:
    """A residual network that gives one number for each output.

    Args:
        input_shape: `(height, width, channels)`.
        outputs: their names.
        width: channels of the first stage; doubled in the second and third.
        seed: of the initial weights.

    Returns:
        A functional model giving a dict of `(batch, 1)` by name.
    """
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x = make.conv_norm(inputs, width, 3, "stem")
    for stage in range(3):
        x = _residual(make, x, width * 2**stage, f"stage{stage + 1}", stage > 0)
    # Not the mean over all places: an angle is a matter of where things are.
    x = layers.Flatten(name="flatten")(x)
    x = make.dense(x, 4 * width, "hidden", activation="relu")
    found = {name: make.dense(x, 1, name) for name in outputs}
    return keras.Model(inputs, found, name="regressor")


def _residual(make: Maker, x: Any, filters: int, name: str, smaller: bool) -> Any:
    strides = 2 if smaller else 1
    y = make.conv_norm(x, filters, 3, f"{name}_1", strides=strides)
    y = make.conv_norm(y, filters, 3, f"{name}_2", relu=False)
    if smaller:
        x = make.conv_norm(x, filters, 1, f"{name}_skip", strides=strides, relu=False)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(x)


def _twice(make: Maker, x: Any, filters: int, name: str) -> Any:
    x = make.conv_norm(x, filters, 3, f"{name}_1")
    return make.conv_norm(x, filters, 3, f"{name}_2")


def _check_multiple(input_shape: tuple[int, int, int], step: int) -> None:
    if any(size is None or size % step for size in input_shape[:2]):
        raise ValueError(
            f"height and width must be multiples of {step}. "
            f"Received: input_shape={tuple(input_shape)}"
        )
