"""TensorBoard's files of a run: curves, ranks, and the images that training sees.

`tensorboard --logdir RUN` shows them. They are for looking at only: nothing reads them
back, no hash covers them, and a run without them ends with the same results.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.metric import CLASSIFICATION, METRICS

if TYPE_CHECKING:
    import tensorflow as tf

    from tfcompress.data import Dataset
    from tfcompress.stages import Stage

# In the run folder; beside the stages' own folders, which are renamed when done.
EVENTS = "tensorboard"

# Images of views that are shown.
_IMAGES = 8
_FLUSH_MILLISECONDS = 5000
# Of `SummaryMetadata.data_class`: one number, a sequence of blobs.
_SCALAR, _BLOBS = 1, 3


@contextlib.contextmanager
def stage_events(folder: Path, *, resumed: bool) -> Iterator[StageEvents]:
    """The event file of one stage.

    Args:
        folder: of its event files; made with the first event.
        resumed: whether the stage goes on where it was stopped: what it wrote before
            then stays.
    """
    if folder.exists() and not resumed:
        shutil.rmtree(folder)
    events = StageEvents(folder)
    try:
        yield events
    finally:
        events.close()


# Figures of a round: the metric of each task, and how close the teacher is.
_SHOWN = (*(metric.key for metric in METRICS.values()), "agreement", "divergence")


class StageEvents:
    """Writes what a stage tells.

    Args:
        folder: of the event file; made with the first event.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None

    def close(self) -> None:
        """Ends the file, where there is one."""
        if self._writer is not None:
            self._writer.close()

    def progress(self, done: float, figures: Mapping[str, float]) -> None:
        """Figures of training, once an epoch.

        Args:
            done: epochs; parts of one are not written.
            figures: by name, such as "loss" and "agreement".
        """
        if done != int(done):
            return
        for name, value in figures.items():
            self._scalar(f"training/{name}", value, int(done))

    def figures(self, figures: Mapping[str, Any]) -> None:
        """A stage's result: its rounds with their ranks, or its layers' ranks."""
        rounds = figures.get("rounds")
        if not isinstance(rounds, list):
            rounds = []
        for index, entry in enumerate(rounds, start=1):
            for key in _SHOWN:
                if key in entry["fine_tuned"]:
                    name = f"rounds/validation_{key}"
                    self._scalar(name, entry["fine_tuned"][key], index)
            share = entry["after"]["macs"] / max(entry["dense"]["macs"], 1)
            self._scalar("rounds/macs_share", share, index)
            self._scalar("rounds/accepted", float(entry["accepted"]), index)
            for layer, ranks in entry["ranks"].items():
                self._ranks(layer, ranks, index)
        if not rounds:
            for row in figures.get("layers", []):
                self._ranks(row["name"], row["ranks"] or [], 0)

    def views(self, stage: Stage, data: Dataset, seed: int) -> None:
        """The first images of the training split as a stage's training sees them.

        Args:
            stage: any; one without views writes nothing.
            data: the data set.
            seed: of the stage.
        """
        import tensorflow as tf

        from tfcompress.distill.views import make_views

        spec = getattr(stage, "views", None)
        # Boxes and masks do not move with the pixels: by them, pictures are seen whole.
        whole = data.task != CLASSIFICATION and "teacher" not in stage.needs
        if spec is None or whole:
            return
        images, _ = next(iter(data.batches("train", _IMAGES)))
        views = make_views(
            images,
            tf.constant([seed, 0]),
            spec.for_data(data.mirror_symmetric),
            samples=tf.range(tf.shape(images)[0]),
        )
        shown = {"images": images, "student": views.student}
        # Without a teacher in the training there is nobody else to see anything.
        if stage.name != "teacher":
            shown["teacher"] = views.teacher
        for name, batch in shown.items():
            self._images(f"views/{name}", batch, data.pixel_range)

    def _ranks(self, layer: str, ranks: list[int], step: int) -> None:
        for index, rank in enumerate(ranks, start=1):
            self._scalar(f"ranks/{layer}/{index}", rank, step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        import tensorflow as tf

        self._write(name, tf.constant(value, tf.float32), step, "scalars", _SCALAR)

    def _images(self, name: str, batch: Any, pixel_range: tuple[float, float]) -> None:
        import tensorflow as tf

        low, high = pixel_range
        pixels = tf.clip_by_value((batch - low) / (high - low), 0.0, 1.0)
        pixels = tf.image.convert_image_dtype(pixels, tf.uint8, saturate=True)
        # PNG knows grey and colour; of other images the first channel is shown.
        if pixels.shape[-1] not in (1, 3):
            pixels = pixels[..., :1]
        encoded = [tf.io.encode_png(image) for image in pixels]
        size = [tf.strings.as_string(n) for n in (pixels.shape[2], pixels.shape[1])]
        self._write(name, tf.stack([*size, *encoded]), 0, "images", _BLOBS)

    def _write(self, name: str, value: Any, step: int, plugin: str, kind: int) -> None:
        # As `tf.summary.scalar` and `image` do, which are only there where TensorBoard
        # is installed.
        import tensorflow as tf

        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin),
            data_class=kind,
        )
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(
                str(self._folder), flush_millis=_FLUSH_MILLISECONDS
            )
        with self._writer.as_default():
            tf.summary.write(name, value, step=step, metadata=metadata)
