"""Where the images of one split come from: memory, files, or a TFDS reader.

Each source has `size`, `batches(...)` of (uint8, int32) and
`arrays()`. `dataset.Dataset` maps the pixels to floats.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.data.spec import DatasetError
from tfcompress.data.splits import balanced_subset

if TYPE_CHECKING:
    import tensorflow as tf

# A split up to this size is held in memory: CIFAR-10 and MNIST are, ImageNet not.
MEMORY_LIMIT_BYTES = 400_000_000
_STREAM_SHUFFLE_BUFFER = 10_000


def fits_memory(count: int, shape: tuple[int, ...]) -> bool:
    """Whether `count` uint8 images of this shape may be held in memory."""
    return count * math.prod(shape) <= MEMORY_LIMIT_BYTES


def index_dataset(
    size: int, *, shuffle_seed: int | None, repeat: bool
) -> tf.data.Dataset:
    """The indices 0..size-1 as a dataset, in a new order in each pass.

    The order of pass k is a function of `(shuffle_seed, k)` alone.
    `Dataset.shuffle` would mix in TensorFlow's global seed, so that the order of
    the data changed with the training seed.
    """
    import tensorflow as tf

    if shuffle_seed is None:
        indices = tf.data.Dataset.range(size)
        return indices.repeat() if repeat else indices

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        seed = tf.stack([tf.constant(shuffle_seed, tf.int64), epoch])
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(
                tf.range(size, dtype=tf.int64), seed=seed, alg="philox"
            )
        )

    if repeat:
        return tf.data.Dataset.counter().flat_map(order)
    passes = itertools.count()
    epoch = tf.data.Dataset.from_generator(
        lambda: iter([next(passes)]),
        output_signature=tf.TensorSpec((), tf.int64),
    )
    return epoch.flat_map(order)


def scale_pixels(images: Any, pixel_range: tuple[float, float]) -> Any:
    """Pixels from 0 to 255, as float32, in another range."""
    low, high = (np.float32(bound) for bound in pixel_range)
    return images / np.float32(255) * (high - low) + low


def resize_images(images: Any, size: tuple[int, int]) -> Any:
    """Resizes uint8 images `[..., h, w, c]` with an antialiased bilinear filter."""
    import tensorflow as tf

    resized = tf.image.resize(images, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _with_cardinality(
    batches: tf.data.Dataset,
    *,
    size: int,
    batch_size: int,
    repeat: bool,
    drop_remainder: bool,
) -> tf.data.Dataset:
    # `flat_map` hides the length from progress bars and `steps_per_epoch`.
    import tensorflow as tf

    if repeat:
        count = tf.data.INFINITE_CARDINALITY
    else:
        count = size // batch_size if drop_remainder else -(-size // batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(count))


class MemorySource:
    """A split held as arrays.

    Args:
        images: uint8 `[n, h, w, c]`, or float32 in the pixel range.
        labels: int32 `[n]`; or other targets, an array or a mapping of arrays.
    """

    def __init__(self, images: np.ndarray, labels: Any):
        self.images = images
        self.labels = labels
        if not isinstance(labels, Mapping) and labels.dtype.kind in "iu":
            self.labels = labels.astype(np.int32)
        self.size = len(images)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        repeat: bool,
        drop_remainder: bool,
    ) -> tf.data.Dataset:
        import tensorflow as tf

        images, labels = self._tensors
        indices = index_dataset(self.size, shuffle_seed=shuffle_seed, repeat=repeat)
        batches = indices.batch(batch_size, drop_remainder=drop_remainder).map(
            lambda i: (
                tf.gather(images, i),
                tf.nest.map_structure(lambda x: tf.gather(x, i), labels),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return _with_cardinality(
            batches,
            size=self.size,
            batch_size=batch_size,
            repeat=repeat,
            drop_remainder=drop_remainder,
        )

    def arrays(self) -> tuple[np.ndarray, Any]:
        return self.images, self.labels

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, Any]:
        import tensorflow as tf

        with tf.init_scope(), tf.device("CPU"):
            labels = tf.nest.map_structure(tf.constant, self.labels)
            return tf.constant(self.images), labels


class FileSource:
    """A split whose images are decoded from files while it is read.

    Args:
        paths: one file per image.
        labels: int32 `[n]`.
        decode: `path -> uint8 [h, w, c]`.
        shape: `(h, w, c)` of every decoded image.
    """

    def __init__(
        self,
        paths: list[str],
        labels: np.ndarray,
        *,
        decode: Callable[[str], np.ndarray],
        shape: tuple[int, int, int],
    ):
        self.paths = paths
        self.labels = labels.astype(np.int32)
        self.size = len(paths)
        self._decode = decode
        self._shape = shape

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        repeat: bool,
        drop_remainder: bool,
    ) -> tf.data.Dataset:
        import tensorflow as tf

        def fetch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = tf.numpy_function(
                lambda i: self._decode(self.paths[i]), [index], tf.uint8
            )
            return tf.ensure_shape(image, self._shape), tf.gather(self.labels, index)

        indices = index_dataset(self.size, shuffle_seed=shuffle_seed, repeat=repeat)
        batches = indices.map(fetch, num_parallel_calls=tf.data.AUTOTUNE).batch(
            batch_size, drop_remainder=drop_remainder
        )
        return _with_cardinality(
            batches,
            size=self.size,
            batch_size=batch_size,
            repeat=repeat,
            drop_remainder=drop_remainder,
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([self._decode(path) for path in self.paths]), self.labels

    def in_memory(self) -> MemorySource:
        """The same split, decoded once."""
        return MemorySource(*self.arrays())


class StreamSource:
    """A split read by TFDS: held in memory once read if it fits, else streamed.

    The order of a streamed split, unlike all others, also depends on
    `tf.random.set_seed`, and is shuffled through a window of 10,000 images.

    Args:
        read: `shuffle_seed -> tf.data.Dataset` of (uint8 `[h, w, c]`, int32).
        available: number of images that `read` gives.
        shape: `(h, w, c)`.
        num_classes: labels must be below it.
        limit: use at most this many images.
    """

    def __init__(
        self,
        read: Callable[[int | None], tf.data.Dataset],
        *,
        available: int,
        shape: tuple[int, int, int],
        num_classes: int,
        limit: int | None = None,
    ):
        self._read = read
        self._shape = shape
        self._num_classes = num_classes
        self._available = available
        self.size = available if limit is None else min(limit, available)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        repeat: bool,
        drop_remainder: bool,
    ) -> tf.data.Dataset:
        import tensorflow as tf

        if fits_memory(self._available, self._shape):
            return self._memory.batches(
                batch_size,
                shuffle_seed=shuffle_seed,
                repeat=repeat,
                drop_remainder=drop_remainder,
            )
        limited = self.size < self._available
        # The subset must be fixed, so files may be shuffled only without a limit.
        images = self._read(None if limited else shuffle_seed).take(self.size)
        if shuffle_seed is not None:
            window = min(self.size, _STREAM_SHUFFLE_BUFFER)
            images = images.shuffle(window, seed=shuffle_seed)
        images = images.repeat() if repeat else images
        return images.batch(batch_size, drop_remainder=drop_remainder).prefetch(
            tf.data.AUTOTUNE
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self._memory.arrays()

    @functools.cached_property
    def _memory(self) -> MemorySource:
        batches = list(self._read(None).batch(1024).as_numpy_iterator())
        images = np.concatenate([image for image, _ in batches])
        labels = np.concatenate([label for _, label in batches])
        if labels.min() < 0 or labels.max() >= self._num_classes:
            raise DatasetError(
                f"labels must be in 0..{self._num_classes - 1}, found "
                f"{labels.min()}..{labels.max()}; choose splits that have labels"
            )
        if self.size < self._available:
            chosen = balanced_subset(labels, self.size)
            images, labels = images[chosen], labels[chosen]
        return MemorySource(images, labels)
