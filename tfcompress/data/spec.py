"""What a recipe says under `dataset:`, and the error for data that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfcompress.errors import TfcompressError, nearest


def as_spec(spec: DatasetSpec | str | Mapping[str, Any]) -> DatasetSpec:
    """Turns a name or a mapping (as read from YAML) into a `DatasetSpec`.

    Raises:
        DatasetError: for an unknown option, or an option out of range.
    """
    if isinstance(spec, DatasetSpec):
        return spec
    if isinstance(spec, str):
        return DatasetSpec(name=spec)
    if not isinstance(spec, Mapping):
        raise DatasetError(
            "a dataset is a name, a mapping or a DatasetSpec. "
            f"Received: {type(spec).__name__}"
        )
    known = {field.name for field in dataclasses.fields(DatasetSpec)}
    for key in spec:
        if key not in known:
            hint = nearest(str(key), known)
            raise DatasetError(f"unknown dataset option '{key}'; {hint}")
    return DatasetSpec(**spec)


class DatasetError(TfcompressError, ValueError):
    """A dataset is missing, damaged or not what its description says."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Names one image classification dataset and how its images are to be read.

    Args:
        name: `"digits"` (bundled with scikit-learn), a TFDS name such as
            `"fashion_mnist"` or `"cifar10:3.0.2"`; with `folder` or `idx` only a
            label, by default the folder's own name.
        folder: an image folder: `folder/<class>/*.png`, or
            `folder/train/<class>/*.png` beside `validation` and `test`.
        idx: a folder with IDX files (`train-images-idx3-ubyte[.gz]`, ...).
        examples: a folder with TFRecord files of tf.Examples in `train/`, `eval/` (or
            `test/`) and, where there is one, `validation/`; an Examples artefact of TFX
            is such a folder.
        features: of `examples`, where they do not speak for themselves: names of the
            features `image`, `label` and `id`, and the `shape` of raw images.
        class_names: of `examples`: the name of each label; numbers by default.
        data_dir: the TFDS data folder; TFDS' own default where not given.
        image_size: resize every image to `(height, width)` pixels. Required where
            the images differ in size.
        pixel_range: the uint8 values 0..255 are mapped linearly to this range.
        train_limit: use at most this many training images: a fixed random subset,
            class-balanced except where the data is too large for memory.

    Raises:
        DatasetError: if an option is missing or out of range.

    Example:
        >>> DatasetSpec("digits", pixel_range=(-1, 1)).pixel_range
        (-1.0, 1.0)
    """

    name: str = ""
    folder: str | None = None
    idx: str | None = None
    examples: str | None = None
    features: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    data_dir: str | None = None
    image_size: tuple[int, int] | None = None
    pixel_range: tuple[float, float] = (0.0, 1.0)
    train_limit: int | None = None

    def __post_init__(self) -> None:
        places = [p for p in (self.folder, self.idx, self.examples) if p]
        if len(places) > 1:
            raise DatasetError(
                "a dataset has one of folder, idx and examples; drop the others"
            )
        if not (self.name or places):
            raise DatasetError("a dataset needs a name, a folder, idx or examples")
        if not self.examples and (self.features or self.class_names):
            raise DatasetError("features and class_names belong to examples")
        if self.class_names is not None:
            names = tuple(str(name) for name in self.class_names)
            object.__setattr__(self, "class_names", names)
        if self.image_size is not None:
            size = _pair("image_size", self.image_size)
            if not all(isinstance(n, int) and n > 0 for n in size):
                raise DatasetError(
                    "image_size must be two positive whole numbers (height, width). "
                    f"Received: {self.image_size}"
                )
            object.__setattr__(self, "image_size", size)
        low, high = _pair("pixel_range", self.pixel_range)
        if not (isinstance(low, int | float) and isinstance(high, int | float)):
            raise DatasetError(
                f"pixel_range must be two numbers. Received: {self.pixel_range}"
            )
        if not low < high:
            raise DatasetError(
                "pixel_range must be (low, high) with low < high. "
                f"Received: {self.pixel_range}"
            )
        object.__setattr__(self, "pixel_range", (float(low), float(high)))
        limit = self.train_limit
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise DatasetError(
                f"train_limit must be a positive whole number. Received: {limit}"
            )


def _pair(option: str, value: Any) -> tuple[Any, Any]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise DatasetError(
            f"{option} must be two numbers. Received: {value!r}"
        ) from None
    return first, second
