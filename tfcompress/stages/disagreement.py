"""Test images that a file takes for another class than the teacher does."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

    from tfcompress.data import Dataset

FILE = "disagreements.json"
# Images that are kept, and the longest side they are kept at.
_MOST = 24
_SIDE = 96


def write_disagreements(
    folder: Path,
    files: Mapping[str, Path],
    teacher: Callable[[Any], Any],
    data: Dataset,
    *,
    num_threads: int | None = None,
) -> dict[str, Any]:
    """Runs files on the test split and keeps the first images they disagree on.

    Args:
        folder: where `disagreements.json` is written.
        files: `.tflite` files by name.
        teacher: from images to logits or probabilities `(batch, classes)`.
        data: the data set.
        num_threads: CPU threads.

    Returns:
        "samples", "total" (images on which any file disagrees) and "counts" by file.
        The JSON file holds the same, and "images": of each its place in the split, its
        label, everybody's class, and the image as PNG in base64.
    """
    import numpy as np

    from tfcompress.deploy import TFLiteModel

    models = {
        name: TFLiteModel(path, num_threads=num_threads) for name, path in files.items()
    }
    counts = dict.fromkeys(files, 0)
    samples = total = 0
    kept: list[dict[str, Any]] = []
    for images, labels in data.batches("test", 256).as_numpy_iterator():
        right = np.argmax(teacher(images), axis=-1)
        found = {n: np.argmax(m.predict(images), axis=-1) for n, m in models.items()}
        wrong = {name: classes != right for name, classes in found.items()}
        for name, places in wrong.items():
            counts[name] += int(places.sum())
        places = np.flatnonzero(np.any(list(wrong.values()), axis=0))
        total += len(places)
        kept += [
            {
                "index": samples + int(i),
                "label": data.class_names[labels[i]],
                "teacher": data.class_names[right[i]],
                "files": {n: data.class_names[c[i]] for n, c in found.items()},
                "png": base64.b64encode(png(images[i], data.pixel_range)).decode(),
            }
            for i in places[: _MOST - len(kept)]
        ]
        samples += len(images)
    figures = {"samples": samples, "total": total, "counts": counts}
    write_atomically(folder / FILE, json.dumps(figures | {"images": kept}, indent=1))
    return figures


def png(image: np.ndarray, pixel_range: tuple[float, float]) -> bytes:
    """An image as PNG, made smaller where it is large; the same bytes every time.

    Args:
        image: float `(height, width, channels)` in the pixel range; of other than
            three channels the first is shown.
        pixel_range: what black and white are.
    """
    import numpy as np
    from PIL import Image

    low, high = pixel_range
    scaled = np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    pixels = np.round(255 * scaled).astype(np.uint8)
    shown = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    shown.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
