"""`Dataset`: three splits of labelled images, ready to train, choose and test on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.data.sources import scale_pixels
from tfcompress.data.spec import DatasetError
from tfcompress.data.splits import SPLITS
from tfcompress.metric import CLASSIFICATION

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images in the splits `train`, `validation` and `test`.

    Made by `load_dataset`. Choose models on `validation`; look at `test` once.

    Attributes:
        name: for reports.
        image_shape: `(height, width, channels)` of every image.
        class_names: the name of each label.
        mirror_symmetric: whether a mirrored image still shows its class; false for
            digits and letters.
        pixel_range: smallest and largest value of a pixel.
        task: what the targets are for: "classification", where they are class numbers,
            "detection", "segmentation" or "regression".
        num_classes: how many classes there are.
        target_names: names of the targets of a regression.
        sizes: number of images of each split.
        fingerprint: SHA-256 over what identifies the data and its splits (not
            `pixel_range`, which changes how they are shown).

    Example:
        >>> from tfcompress.data import load_dataset
        >>> load_dataset("digits").sizes
        {'train': 1149, 'validation': 289, 'test': 359}
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mirror_symmetric: bool
    pixel_range: tuple[float, float]
    _sources: Mapping[str, Any] = dataclasses.field(repr=False)
    _identify: Callable[[], str] = dataclasses.field(repr=False)
    task: str = CLASSIFICATION

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets of a regression; none of other tasks."""
        labels = getattr(self._sources["train"], "labels", None)
        return tuple(labels) if isinstance(labels, Mapping) else ()

    @property
    def sizes(self) -> dict[str, int]:
        return {split: self._sources[split].size for split in SPLITS}

    @functools.cached_property
    def fingerprint(self) -> str:
        return self._identify()

    def metadata(self) -> dict[str, Any]:
        """What a file made for these data says of itself; see `export_tflite`."""
        return {
            "data": self.name,
            "labels": list(self.class_names),
            "normalization": {"pixel_range": list(map(float, self.pixel_range))},
        }

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        repeat: bool = False,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """The images of a split in batches.

        Args:
            split: `"train"`, `"validation"` or `"test"`.
            batch_size: images a batch.
            shuffle_seed: the order of pass k is a function of this seed and k; each
                pass over the returned dataset has another order. `None` keeps the
                stored order.
            repeat: never end. Batches then run across the end of a pass, so all
                are full.
            drop_remainder: leave out a last batch that is not full.

        Returns:
            A `tf.data.Dataset` of (float32 `[b, h, w, c]` in `pixel_range`, int32
            `[b]`); of other tasks than classification the targets are boxes float32
            `[b, most, 5]`, masks int32 `[b, h, w]`, or float32 `[b, 1]` by name.

        Raises:
            DatasetError: if there is no such split, or `batch_size` is below 1.
        """
        import tensorflow as tf

        if batch_size < 1:
            raise DatasetError(f"batch_size must be 1 or more. Received: {batch_size}")
        batches = self._source(split).batches(
            batch_size,
            shuffle_seed=shuffle_seed,
            repeat=repeat,
            drop_remainder=drop_remainder,
        )

        def ready(images: Any, labels: Any) -> tuple[Any, Any]:
            # What is float already is in the pixel range.
            if images.dtype.is_floating:
                return images, labels
            return scale_pixels(tf.cast(images, tf.float32), self.pixel_range), labels

        return batches.map(ready, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
            tf.data.AUTOTUNE
        )

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """A whole split as arrays, in stored order; for small data and tests.

        Returns:
            Images float32 `[n, h, w, c]` in `pixel_range` and labels int32 `[n]`, or
            other targets as `batches` gives them.

        Raises:
            DatasetError: if there is no such split.
        """
        images, labels = self._source(split).arrays()
        if images.dtype == np.uint8:
            images = scale_pixels(images.astype(np.float32), self.pixel_range)
        if isinstance(labels, Mapping):
            return np.array(images), {key: x.copy() for key, x in labels.items()}
        return np.array(images), labels.copy()

    def calibration(
        self, n: int, *, seed: int = 0, batch_size: int = 1
    ) -> tf.data.Dataset:
        """Images from the training split, to calibrate quantization with.

        Args:
            n: how many images; all of the split where it has fewer.
            seed: chooses the images.
            batch_size: images a batch.

        Returns:
            A `tf.data.Dataset` of float32 `[b, h, w, c]`: the same images in the
            same order in every pass.

        Raises:
            DatasetError: if `n` or `batch_size` is below 1.
        """
        import tensorflow as tf

        if n < 1 or batch_size < 1:
            raise DatasetError(
                "calibration needs n and batch_size of 1 or more. "
                f"Received: {n} and {batch_size}"
            )
        shuffled = self.batches("train", min(n, 256), shuffle_seed=seed)
        images = np.concatenate(
            [batch for batch, _ in shuffled.take(-(-n // 256)).as_numpy_iterator()]
        )[:n]
        return tf.data.Dataset.from_tensor_slices(images).batch(batch_size)

    def _source(self, split: str) -> Any:
        if split not in self._sources:
            raise DatasetError(
                f"'{self.name}' has no split '{split}'; known: {', '.join(SPLITS)}"
            )
        return self._sources[split]
