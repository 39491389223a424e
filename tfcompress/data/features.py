"""Which features of a tf.Example are the image and its label."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any

from tfcompress.data.sources import resize_images, scale_pixels
from tfcompress.data.spec import DatasetError
from tfcompress.errors import nearest

_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")

# What the graph says where encoded images have no size in common.
DIFFERENT_SIZES = "images differ in size"


@dataclasses.dataclass(frozen=True)
class Features:
    """How an example is read.

    Attributes:
        image: name of the feature that holds the image.
        label: of the one that holds the class number.
        id: of the one that numbers the examples, or None.
        encoded: whether the image is PNG, JPEG, GIF or BMP, and not raw numbers.
        integer: whether raw numbers are whole ones from 0 to 255; else floats, which
            are taken as they are.
        shape: `(height, width, channels)` of raw images; of encoded ones only the
            channels count.
        columns: features of one number each that make up the image, as CsvExampleGen
            leaves them, with whether it is a whole number; `image` is their pattern.
    """

    image: str
    label: str
    id: str | None
    encoded: bool
    integer: bool
    shape: tuple[int, int, int]
    columns: tuple[tuple[str, bool], ...] = ()

    def parse(
        self,
        serialized: Any,
        *,
        size: tuple[int, int] | None = None,
        identified: bool = False,
    ) -> dict[str, Any]:
        """Images, labels and numbers of serialized examples.

        Args:
            serialized: strings `[b]`.
            size: `(height, width)` that encoded images are resized to; without it
                they must all be as large as the first.
            identified: whether "id" is wanted; zeros where there is none.

        Returns:
            "image" uint8 or float32 `[b, h, w, c]`, "label" int64 `[b]`, "id".
        """
        import tensorflow as tf

        integer = tf.io.FixedLenFeature([], tf.int64)
        spec = {self.label: integer, **self._stored()}
        if identified and self.id is not None:
            spec[self.id] = integer
        found = tf.io.parse_example(serialized, spec)
        result = {
            "image": self._images(found, size),
            "label": found[self.label],
        }
        if identified:
            blank = tf.zeros_like(found[self.label])
            result["id"] = blank if self.id is None else found[self.id]
        return result

    def parse_images(
        self,
        serialized: Any,
        *,
        pixel_range: tuple[float, float],
        size: tuple[int, int] | None = None,
    ) -> Any:
        """What a model is given for serialized examples, which need no label.

        Args:
            serialized: strings `[b]`.
            pixel_range: what bytes 0 and 255 become; floats are taken as they are.
            size: see `parse`.

        Returns:
            float32 `[b, h, w, c]`.
        """
        import tensorflow as tf

        found = tf.io.parse_example(serialized, self._stored())
        return self.images(found, pixel_range=pixel_range, size=size)

    def images(
        self,
        found: Mapping[str, Any],
        *,
        pixel_range: tuple[float, float],
        size: tuple[int, int] | None = None,
    ) -> Any:
        """Float images of features that are parsed already; see `parse_images`."""
        import tensorflow as tf

        images = self._images(found, size)
        if images.dtype.is_floating:
            return images
        return scale_pixels(tf.cast(images, tf.float32), pixel_range)

    def _stored(self) -> dict[str, Any]:
        import tensorflow as tf

        if self.columns:
            return {
                name: tf.io.FixedLenFeature([], tf.int64 if whole else tf.float32)
                for name, whole in self.columns
            }
        if self.encoded:
            return {self.image: tf.io.FixedLenFeature([], tf.string)}
        kind = tf.int64 if self.integer else tf.float32
        return {self.image: tf.io.FixedLenFeature([math.prod(self.shape)], kind)}

    def _images(self, found: Mapping[str, Any], size: tuple[int, int] | None) -> Any:
        import tensorflow as tf

        if not self.encoded:
            stored = found.get(self.image)
            if self.columns:
                kind = tf.int64 if self.integer else tf.float32
                stored = tf.stack(
                    [tf.cast(found[name], kind) for name, _ in self.columns], axis=-1
                )
            images = tf.reshape(stored, (-1, *self.shape))
            return tf.cast(images, tf.uint8) if self.integer else images
        shape = (*(size or self.shape[:2]), self.shape[2])

        def decode(one: Any) -> Any:
            image = tf.io.decode_image(
                one, channels=self.shape[2], expand_animations=False
            )
            same = tf.reduce_all(tf.equal(tf.shape(image), shape))
            if size is None:
                tf.debugging.assert_equal(same, True, message=DIFFERENT_SIZES)
            else:
                image = tf.cond(same, lambda: image, lambda: resize_images(image, size))
            return tf.ensure_shape(image, shape)

        return tf.map_fn(
            decode,
            found[self.image],
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )


def find_features(example: Any, *, where: str) -> Features:
    """The image, the label and the number, found by what an example holds.

    Args:
        example: a `tf.train.Example`.
        where: what errors call its place.

    Raises:
        DatasetError: none or several candidates; names them.
    """
    held = example.features.feature
    images = [name for name in sorted(held) if _is_image(held[name])]
    image = _choose(images, "image", held, where)
    labels = [
        name
        for name in sorted(held)
        if name == "label"
        or (len(held[name].int64_list.value) == 1 and name not in ("id", image))
    ]
    label = _choose(labels, "label", held, where)
    return known_features({"image": image, "label": label}, example, where=where)


def known_features(given: Mapping[str, Any], example: Any, *, where: str) -> Features:
    """The features that a description names.

    Args:
        given: "image", "label" and optionally "id" (names of features) and "shape"
            (height, width and channels of the image). An image of one feature for each
            pixel is a pattern of their names, such as "pixel_*".
        example: a `tf.train.Example` that must have them.
        where: what errors call its place.

    Raises:
        DatasetError: an unknown key, a missing feature, or a shape that does not fit.
    """
    known = ("image", "label", "id", "shape")
    for key in given:
        if key not in known:
            raise DatasetError(
                f"unknown features option '{key}'; {nearest(key, known)}"
            )
    held = example.features.feature
    image, label = given.get("image", "image"), given.get("label", "label")
    number = given.get("id", "id" if "id" in held else None)
    columns = _columns(image, held, given.get("shape"), where)
    named = (("label", label), ("id", number))
    for what, name in named if columns else (("image", image), *named):
        if name is not None and name not in held:
            raise DatasetError(
                f"the examples in {where} have no feature '{name}' for the {what}; "
                f"they have {', '.join(sorted(held)) or 'none'}"
            )
    if len(held[label].int64_list.value) != 1:
        raise DatasetError(
            f"the label '{label}' in {where} is not one whole number; convert labels "
            "to class numbers from 0"
        )
    shape = given.get("shape")
    if columns:
        integer = all(whole for _, whole in columns)
        shape = tuple(shape) if shape else _square(len(columns), image, where)
        return Features(image, label, number, False, integer, shape, columns)
    encoded = bool(held[image].bytes_list.value)
    return Features(
        image=image,
        label=label,
        id=number,
        encoded=encoded,
        integer=bool(held[image].int64_list.value),
        shape=_encoded_shape(held[image], shape, image, where)
        if encoded
        else _raw_shape(held[image], shape, image, where),
    )


def _is_image(feature: Any) -> bool:
    if len(feature.bytes_list.value) == 1:
        return feature.bytes_list.value[0].startswith(_IMAGE_STARTS)
    return _count(feature) > 3


def _columns(
    pattern: str, held: Any, shape: Any, where: str
) -> tuple[tuple[str, bool], ...]:
    """The features of one number each that a pattern names, in the order of numbers."""
    if pattern in held or not any(sign in pattern for sign in "*?["):
        return ()
    names = [name for name in held if fnmatch.fnmatchcase(name, pattern)]
    # pixel_10 comes after pixel_9.
    names.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name)] or [0])
    if not names or any(_count(held[name]) != 1 for name in names):
        raise DatasetError(
            f"the examples in {where} have {len(names)} features like '{pattern}' for "
            "the image, which must hold one number each"
        )
    if shape is not None and (len(shape) != 3 or math.prod(shape) != len(names)):
        raise DatasetError(
            f"the {len(names)} features like '{pattern}' in {where} are not (height, "
            f"width, channels) = {tuple(shape)}"
        )
    return tuple((name, bool(held[name].int64_list.value)) for name in names)


def _count(feature: Any) -> int:
    return len(feature.float_list.value) or len(feature.int64_list.value)


def _choose(candidates: list[str], what: str, held: Any, where: str) -> str:
    if what in candidates:
        return what
    if len(candidates) == 1:
        return candidates[0]
    found = f"{len(candidates)} candidates" if candidates else "none"
    names = ", ".join(sorted(held)) or "none"
    raise DatasetError(
        f"the examples in {where} do not say which feature is the {what} ({found}); "
        f"give features: {{{what}: NAME}}. They have {names}"
    )


def _encoded_shape(
    feature: Any, shape: Any, name: str, where: str
) -> tuple[int, int, int]:
    import tensorflow as tf

    try:
        image = tf.io.decode_image(feature.bytes_list.value[0], expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise DatasetError(
            f"the image '{name}' in {where} is no PNG, JPEG, GIF or BMP"
        ) from error
    height, width, channels = (int(n) for n in image.shape)
    channels = int(shape[2]) if shape else 3 if channels >= 3 else 1
    return height, width, channels


def _raw_shape(feature: Any, shape: Any, name: str, where: str) -> tuple[int, int, int]:
    count = _count(feature)
    if shape is not None:
        given = tuple(int(n) for n in shape)
        if len(given) != 3 or math.prod(given) != count:
            raise DatasetError(
                f"the image '{name}' in {where} has {count} numbers, which are not "
                f"(height, width, channels) = {given}"
            )
        return given
    return _square(count, name, where)


def _square(count: int, name: str, where: str) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            return side, side, channels
    raise DatasetError(
        f"the image '{name}' in {where} has {count} numbers, which make no square; "
        "give features: {shape: [HEIGHT, WIDTH, CHANNELS]}"
    )
