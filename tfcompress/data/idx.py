"""The IDX format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from tfcompress.data.spec import DatasetError

_DTYPES = {
    0x08: ">u1",
    0x09: ">i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one IDX file, plain or gzipped.

    Args:
        path: the file; compression is recognised by content, not by name.

    Returns:
        The array, in native byte order, with the shape the header states.

    Raises:
        DatasetError: if the file is missing, is no IDX file, or has more or fewer
            bytes than its header says.

    Example:
        >>> read_idx("train-labels-idx1-ubyte.gz").shape  # doctest: +SKIP
        (60000,)
    """
    path = Path(path)
    content = _read_bytes(path)
    known = len(content) >= 4 and content[:2] == b"\0\0" and content[2] in _DTYPES
    if not known:
        raise DatasetError(
            f"'{path}' is no IDX file: its magic number is "
            f"0x{content[:4].hex() or '(empty)'}; expected 0x0000<type><dimensions>"
        )
    dtype, rank = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise DatasetError(
            f"'{path}' is no usable IDX file: it states {rank} dimensions in "
            f"{len(content)} bytes; fetch it again"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        fault = "truncated" if len(content) < expected else "too long"
        raise DatasetError(
            f"'{path}' is {fault}: its header {shape} needs {expected} bytes, it "
            f"has {len(content)}; fetch it again"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def read_idx_folder(folder: str | os.PathLike[str], *, name: str) -> IdxSet:
    """Reads the four files of an IDX dataset and checks that they fit together.

    Args:
        folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
            `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each plain or
            with `.gz`.
        name: gives the class names of a known dataset; otherwise they are numbers.

    Raises:
        DatasetError: if a file is missing or damaged, or the counts, image sizes
            or labels do not agree.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"IDX folder '{folder}' does not exist; check the path")
    train = _read_part(folder, "train")
    test = _read_part(folder, "t10k")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DatasetError(
            f"training and test images in '{folder}' differ in shape: "
            f"{train[0].shape[1:]} and {test[0].shape[1:]}; use files of one dataset"
        )
    names: tuple[str, ...]
    if name.replace("-", "_") == "fashion_mnist":
        names = FASHION_MNIST_CLASSES
    else:
        names = tuple(str(i) for i in range(int(train[1].max()) + 1))
    for part, (_, labels) in {"training": train, "test": test}.items():
        if labels.max() >= len(names):
            raise DatasetError(
                f"{part} labels in '{folder}' go up to {labels.max()}, but "
                f"'{name}' has {len(names)} classes; use files of one dataset"
            )
    return IdxSet(*train, *test, class_names=names)


@dataclasses.dataclass(frozen=True)
class IdxSet:
    """Images uint8 `[n, h, w, c]` and labels int32 `[n]` of an IDX folder."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def find_idx_folder(name: str) -> Path | None:
    """The folder that holds the IDX files of `name`, if there is one.

    Looks into the folder that the environment variable `TFCOMPRESS_DATA` names,
    then where Debian's packages `dataset-*` put theirs.
    """
    roots = [os.environ.get("TFCOMPRESS_DATA"), "/usr/share/datasets"]
    for root in filter(None, roots):
        for spelling in (name, name.replace("_", "-"), name.replace("-", "_")):
            folder = Path(root) / spelling
            if folder.is_dir() and _find(folder, "train", "images") is not None:
                return folder
    return None


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise DatasetError(f"IDX file '{path}' does not exist; check the path")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except EOFError as error:
        raise DatasetError(f"'{path}' is truncated; fetch it again") from error
    except (OSError, zlib.error) as error:
        raise DatasetError(f"'{path}' cannot be read: {error}") from error


def _find(folder: Path, part: str, kind: str) -> Path | None:
    # Mirrors of MNIST write "-idx3-" or ".idx3-".
    found = sorted(folder.glob(f"{part}-{kind}[-.]idx[134]-ubyte"))
    found += sorted(folder.glob(f"{part}-{kind}[-.]idx[134]-ubyte.gz"))
    return found[0] if found else None


def _read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    paths = {}
    for kind, rank in (("images", 3), ("labels", 1)):
        path = _find(folder, part, kind)
        if path is None:
            raise DatasetError(
                f"IDX folder '{folder}' has no {part}-{kind}-idx{rank}-ubyte[.gz]; "
                "put the four files of the dataset there"
            )
        paths[kind] = path
    images, labels = read_idx(paths["images"]), read_idx(paths["labels"])
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise DatasetError(
            f"'{paths['images']}' holds no uint8 images [n, h, w]. "
            f"Received: {images.dtype} {images.shape}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DatasetError(
            f"'{paths['labels']}' holds no whole-number labels [n]. "
            f"Received: {labels.dtype} {labels.shape}"
        )
    if len(images) != len(labels):
        raise DatasetError(
            f"'{paths['images']}' has {len(images)} images but "
            f"'{paths['labels']}' {len(labels)} labels; use files of one dataset"
        )
    if labels.min() < 0:
        raise DatasetError(f"'{paths['labels']}' has the label {labels.min()} < 0")
    images = images[..., None] if images.ndim == 3 else images
    return images, labels.astype(np.int32)
