"""Networks that classify images. All return logits."""

from __future__ import annotations

import keras
from keras import layers

from tfcompress.models.maker import Maker


def resnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: int = 20,
    width: int = 16,
    stem_strides: int = 1,
    seed: int = 0,
) -> keras.Model:
    """A CIFAR-style residual network (He et al. 2016, section 4.2).

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        depth: 6n + 2: 8, 14, 20, 32, ...
        width: channels of the first stage; doubled in the second and third.
        stem_strides: of the first convolution; 2 pays for twice the width.
        seed: of the initial weights.

    Returns:
        A functional model giving logits of shape `(batch, num_classes)`.

    Raises:
        ValueError: a depth that is not 6n + 2.

    Example:
        >>> resnet((28, 28, 1), 10, depth=8).output_shape
        (None, 10)
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, ...). Received: depth={depth}")
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x = make.conv_norm(inputs, width, 3, "stem", strides=stem_strides)
    for stage in range(3):
        filters = width * 2**stage
        for block in range((depth - 2) // 6):
            name = f"stage{stage + 1}_block{block + 1}"
            strides = 2 if stage and not block else 1
            y = make.conv_norm(x, filters, 3, f"{name}_1", strides=strides)
            y = make.conv_norm(y, filters, 3, f"{name}_2", relu=False)
            if strides != 1:
                x = make.conv_norm(
                    x, filters, 1, f"{name}_skip", strides=strides, relu=False
                )
            x = layers.Add(name=f"{name}_add")([x, y])
            x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = make.dense(x, num_classes, "logits")
    return keras.Model(inputs, logits, name=f"resnet{depth}")


def vgg(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 32,
    blocks: int = 3,
    hidden: int = 128,
    seed: int = 0,
) -> keras.Model:
    """A plain VGG-style network with batch normalization.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        width: channels of the first block; doubled in each further one.
        blocks: blocks of two 3×3 convolutions and a pooling.
        hidden: units of the hidden dense layer.
        seed: of the initial weights.

    Returns:
        A functional model giving logits of shape `(batch, num_classes)`.
    """
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block in range(blocks):
        filters = width * 2**block
        for index in (1, 2):
            x = make.conv_norm(x, filters, 3, f"block{block + 1}_{index}")
        if min(x.shape[1:3]) > 1:
            x = layers.MaxPooling2D(2, name=f"block{block + 1}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = make.dense(x, hidden, "hidden", activation="relu")
    logits = make.dense(x, num_classes, "logits")
    return keras.Model(inputs, logits, name="vgg")


def vit(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    patch_size: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    seed: int = 0,
) -> keras.Model:
    """A small vision transformer (Dosovitskiy et al. 2021, section 3.1).

    As there, but with the mean of the tokens in place of a class token (Beyer et al.
    2022, "Better plain ViT baselines", section 2).

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of logits.
        patch_size: side of the square patches; an image that they do not divide is
            padded with zeros.
        dim: width of the tokens; the hidden layers are four times as wide.
        depth: number of blocks.
        heads: attention heads; they divide `dim`.
        seed: of the initial weights.

    Returns:
        A functional model giving logits of shape `(batch, num_classes)`.

    Raises:
        ValueError: a width that the heads do not divide.

    Example:
        >>> vit((28, 28, 1), 10, dim=32, depth=2).output_shape
        (None, 10)
    """
    if dim % heads:
        raise ValueError(f"heads must divide dim. Received: dim={dim}, heads={heads}")
    make = Maker(seed)
    inputs = keras.Input(input_shape, name="image")
    x = make.conv(inputs, dim, patch_size, "patches", strides=patch_size)
    x = layers.Reshape((x.shape[1] * x.shape[2], dim), name="tokens")(x)
    x = make.positions(x, "positions")
    for block in range(depth):
        name = f"block{block + 1}"
        y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
        y = make.attention(y, heads, f"{name}_attention")
        x = layers.Add(name=f"{name}_add1")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
        y = make.dense(y, 4 * dim, f"{name}_hidden", activation="gelu")
        y = make.dense(y, dim, f"{name}_out")
        x = layers.Add(name=f"{name}_add2")([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, make.dense(x, num_classes, "logits"), name="vit")
