"""At which sparsity is a pruned file as small as another one?"""

from __future__ import annotations

import gzip

import keras
import numpy as np

_HALVINGS = 10


def sparsity_for_bytes(model: keras.Model, file: bytes, target: int) -> float:
    """Sparsity of all kernels at which a gzipped file is about `target` bytes large.

    Zeros cost nearly nothing once compressed. The size is predicted from the weights
    as they are, cut by magnitude; what else is in the file stays as large as it is.

    Args:
        model: a trained model.
        file: its float32 `.tflite` file.
        target: bytes.

    Returns:
        The smallest sparsity in steps of 1/1024, in (0, 1).

    Raises:
        ValueError: the file is no larger than that as it is, or the rest of it is.
    """
    # As in the file, output channels come first.
    kernels = [
        np.moveaxis(np.asarray(layer.kernel, np.float32), -1, 0)
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
    rest = gzipped_size(file) - gzipped_size(_cut(kernels, 0.0))

    def size(sparsity: float) -> int:
        return rest + gzipped_size(_cut(kernels, sparsity))

    if not size(1.0) < target < size(0.0):
        raise ValueError(
            "Pruning cannot bring the file to that size: it can only lie between "
            f"{size(1.0)} and {size(0.0)} bytes. Received: target={target}"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if size(middle) > target else (low, middle)
    return high


def gzipped_size(content: bytes) -> int:
    """Bytes after gzip at its strongest."""
    return len(gzip.compress(content, 9, mtime=0))


def _cut(kernels: list[np.ndarray], sparsity: float) -> bytes:
    parts = []
    for kernel in kernels:
        count = round(sparsity * kernel.size)
        flat = kernel.ravel().copy()
        flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0.0
        parts.append(flat.tobytes())
    return b"".join(parts)
