"""Image folders: `folder/<class>/*.png`, with or without split subfolders."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfcompress.data.sources import FileSource, MemorySource, fits_memory
from tfcompress.data.spec import DatasetError, DatasetSpec
from tfcompress.data.splits import SPLITS, balanced_subset, hash_split, holdout_split

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
_EIGHT_BIT_GREY = frozenset({"1", "L", "LA"})
_SUBFOLDERS = {
    "train": ("train",),
    "validation": ("validation", "val"),
    "test": ("test",),
}
_DEEP = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})


def decode_image(
    path: str, *, channels: int, image_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes one image file.

    Args:
        path: a PNG, JPEG, BMP, GIF (first frame) or WebP file.
        channels: 1 for grey, 3 for RGB; transparency is dropped.
        image_size: resize to `(height, width)`.

    Returns:
        uint8 `[h, w, channels]`.

    Raises:
        DatasetError: naming the file, if it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB")
            if image_size is not None and image.size != image_size[::-1]:
                image = image.resize(image_size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(image, np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"image '{path}' cannot be decoded ({error}); replace or delete it"
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def load_folder(spec: DatasetSpec, *, split_seed: int) -> FolderSplits:
    """Finds the images of a folder, checks them and splits them.

    With `train` (and `validation` or `val`, and `test`) subfolders, those are the
    splits; a missing one is made up: 10 % of a fixed permutation of `train` for
    validation, and the given validation images are then the test where there is no
    `test`. Otherwise a hash of each file's relative name decides (80/10/10 %).

    Raises:
        DatasetError: if a folder is missing or empty, an image is damaged, or
            images differ in size and no `image_size` is given.
    """
    root = Path(spec.folder or "")
    if not root.is_dir():
        raise DatasetError(f"image folder '{root}' does not exist; check the path")
    files, class_names = _find_splits(root, split_seed=split_seed)
    for split in SPLITS:
        if not files[split]:
            raise DatasetError(
                f"image folder '{root}' leaves no images for {split}; add images, "
                "or sort them into train/, validation/ and test/"
            )
    every = [file for split in SPLITS for file in files[split]]
    shape = _common_shape(root, every, image_size=spec.image_size)
    if spec.train_limit is not None:
        labels = np.array([file.label for file in files["train"]])
        chosen = balanced_subset(labels, spec.train_limit)
        files["train"] = [files["train"][i] for i in chosen]
    digest = hashlib.sha256(repr(("folder", shape, class_names)).encode())
    sources: dict[str, MemorySource | FileSource] = {}
    decode = functools.partial(
        decode_image, channels=shape[2], image_size=spec.image_size
    )
    for split in SPLITS:
        for file in files[split]:
            size = (root / file.name).stat().st_size
            digest.update(f"{split}\0{file.name}\0{file.label}\0{size}\n".encode())
        source = FileSource(
            [str(root / file.name) for file in files[split]],
            np.array([file.label for file in files[split]], np.int32),
            decode=decode,
            shape=shape,
        )
        fits = fits_memory(source.size, shape)
        sources[split] = source.in_memory() if fits else source
    return FolderSplits(sources, shape, class_names, digest.hexdigest())


@dataclasses.dataclass(frozen=True)
class FolderSplits:
    """What `load_folder` found."""

    sources: dict[str, MemorySource | FileSource]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class _File:
    name: str  # relative to the root, with "/"
    label: int


def _find_splits(
    root: Path, *, split_seed: int
) -> tuple[dict[str, list[_File]], tuple[str, ...]]:
    if not (root / "train").is_dir():
        class_names = _class_names(root)
        files: dict[str, list[_File]] = {split: [] for split in SPLITS}
        for file in _find_images(root, root, class_names):
            files[hash_split(file.name)].append(file)
        return files, class_names
    class_names = _class_names(root / "train")
    files = {split: [] for split in SPLITS}
    for split, spellings in _SUBFOLDERS.items():
        for folder in (root / spelling for spelling in spellings):
            if folder.is_dir() and not files[split]:
                files[split] = _find_images(root, folder, class_names)
    if not files["test"] and not files["validation"]:
        raise DatasetError(
            f"image folder '{root}' has train/ but neither validation/ nor test/; "
            "add one, or put the class folders directly into it"
        )
    if not files["test"]:
        files["test"], files["validation"] = files["validation"], []
    if not files["validation"]:
        kept, held_out = holdout_split(
            len(files["train"]), fraction=0.1, seed=split_seed
        )
        every = files["train"]
        files["train"] = [every[i] for i in kept]
        files["validation"] = [every[i] for i in held_out]
    return files, class_names


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise DatasetError(
            f"image folder '{folder}' has {len(names)} class folders; expected two "
            "or more, each with its images: <class>/*.png"
        )
    return tuple(names)


def _find_images(root: Path, folder: Path, class_names: Sequence[str]) -> list[_File]:
    unknown = {
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    } - set(class_names)
    if unknown:
        raise DatasetError(
            f"'{folder}' has the class folder '{min(unknown)}', which the training "
            "images do not have; every class needs training images"
        )
    found = []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue  # only possible outside train: a small test may miss a class
        paths = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not paths:
            raise DatasetError(
                f"class folder '{folder / name}' has no images "
                f"({', '.join(sorted(SUFFIXES))}); add some or delete it"
            )
        found += [_File(path.relative_to(root).as_posix(), label) for path in paths]
    return found


def _common_shape(
    root: Path, files: Sequence[_File], *, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    from PIL import Image, UnidentifiedImageError

    first: tuple[tuple[int, int], str] | None = None
    channels = 1
    for file in files:
        path = root / file.name
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DatasetError(
                f"image '{path}' cannot be read ({error}); replace or delete it"
            ) from error
        if mode in _DEEP:
            raise DatasetError(
                f"image '{path}' has more than 8 bits a channel (mode {mode}); "
                "convert it to 8 bits"
            )
        if mode not in _EIGHT_BIT_GREY:
            channels = 3
        first = first or (size, file.name)
        if image_size is None and size != first[0]:
            raise DatasetError(
                f"images in '{root}' differ in size ('{first[1]}' is "
                f"{first[0][1]}x{first[0][0]}, '{file.name}' {size[1]}x{size[0]}); "
                "give image_size"
            )
    width, height = first[0] if first else (0, 0)
    return (*(image_size or (height, width)), channels)
