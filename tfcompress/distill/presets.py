"""The settings of the paper's runs, by name."""

from __future__ import annotations

import dataclasses

import keras

from tfcompress.distill.schedule import make_optimizer
from tfcompress.distill.spec import ViewSpec
from tfcompress.errors import OptionError, nearest

_BATCH_SIZE = 512
_WARMUP_STEPS = 1500


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperRun:
    """One run of Beyer et al. 2021, function matching throughout.

    Attributes:
        dataset: its name in TensorFlow Datasets.
        epochs: length of the run.
        temperature: of the distillation.
        learning_rate: its peak.
        weight_decay: as in the paper; `make_optimizer` converts it for Keras.
        batch_size: images a step.
        warmup_steps: steps of linear warm-up.
        size: pixels of each side.
        accuracy: the student's, on test images, in percent.
        teacher_accuracy: the teacher's.

    Example:
        >>> run = paper_run("food101/100")
        >>> run.batch_size, run.views.mode
        (512, 'function_matching')
    """

    dataset: str
    epochs: int
    temperature: float
    learning_rate: float
    weight_decay: float
    batch_size: int = _BATCH_SIZE
    warmup_steps: int = _WARMUP_STEPS
    size: int = 128
    accuracy: float
    teacher_accuracy: float

    @property
    def views(self) -> ViewSpec:
        """Function matching on inception crops, mirrored half of the time."""
        return ViewSpec.named("funmatch", flip=True)

    def optimizer(self, *, samples: int) -> keras.optimizers.Optimizer:
        """The optimizer of this run for so many training images.

        Args:
            samples: size of the training split.

        Raises:
            OptionError: less than one batch.
        """
        steps_per_epoch = samples // self.batch_size
        if steps_per_epoch < 1:
            raise OptionError(
                f"There is not one batch of {self.batch_size} images. "
                f"Received: samples={samples}"
            )
        steps = self.epochs * steps_per_epoch
        return make_optimizer(
            steps=steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=min(self.warmup_steps, steps // 2),
        )


def _table(dataset: str, teacher: float, rows: list[tuple]) -> dict[str, PaperRun]:
    return {
        f"{dataset}/{epochs}": PaperRun(
            dataset=dataset,
            epochs=epochs,
            accuracy=accuracy,
            temperature=temperature,
            learning_rate=rate,
            weight_decay=decay,
            teacher_accuracy=teacher,
        )
        for epochs, accuracy, temperature, rate, decay in rows
    }


# Beyer et al. 2021, table 4: epochs, accuracy, temperature, learning rate, decay. The
# line of ImageNet is from their published configuration.
PAPER_RUNS: dict[str, PaperRun] = {
    **_table(
        "oxford_flowers102",
        97.82,
        [
            (1_000, 77.51, 10.0, 3e-3, 1e-3),
            (10_000, 92.83, 10.0, 3e-3, 3e-4),
            (100_000, 95.54, 1.0, 1e-3, 1e-4),
            (1_000_000, 96.93, 1.0, 3e-4, 1e-5),
        ],
    ),
    **_table(
        "oxford_iiit_pet",
        91.03,
        [
            (300, 82.75, 2.0, 1e-2, 1e-5),
            (1_000, 88.01, 5.0, 1e-2, 1e-3),
            (3_000, 90.08, 10.0, 3e-3, 3e-4),
            (10_000, 90.98, 2.0, 1e-3, 1e-4),
            (30_000, 91.06, 2.0, 3e-3, 1e-5),
        ],
    ),
    **_table(
        "food101",
        86.24,
        [
            (100, 83.29, 10.0, 1e-2, 1e-3),
            (1_000, 86.64, 10.0, 1e-3, 3e-4),
            (3_000, 87.20, 5.0, 1e-2, 1e-4),
        ],
    ),
    **_table(
        "sun397",
        74.22,
        [
            (100, 68.28, 10.0, 1e-2, 1e-3),
            (1_000, 73.46, 10.0, 3e-3, 1e-4),
            (3_000, 74.26, 10.0, 1e-2, 3e-5),
        ],
    ),
    "imagenet2012/1200": PaperRun(
        dataset="imagenet2012",
        epochs=1200,
        temperature=1.0,
        learning_rate=0.03,
        weight_decay=3e-4,
        batch_size=4096,
        warmup_steps=5000,
        size=224,
        accuracy=81.54,
        teacher_accuracy=83.0,
    ),
}


def paper_run(name: str) -> PaperRun:
    """The settings of one of the paper's runs.

    Args:
        name: "dataset/epochs", a key of `PAPER_RUNS`.

    Raises:
        OptionError: no such run.

    Reference: Beyer et al. 2021, table 4.

    Example:
        >>> paper_run("food101/100").temperature
        10.0
    """
    if name not in PAPER_RUNS:
        raise OptionError(f"No run '{name}'; {nearest(name, PAPER_RUNS)}")
    return PAPER_RUNS[name]
