"""What the stages ask of a task, and what all tasks but classification share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfcompress.deploy import TFLiteModel
from tfcompress.distill import (
    Distiller,
    Matching,
    ViewSpec,
    make_views,
    regression_divergence,
)
from tfcompress.errors import ModelFileError
from tfcompress.metric import Metric
from tfcompress.musco import Task
from tfcompress.trace import input_specs

if TYPE_CHECKING:
    from tfcompress.data import Dataset

__all__ = ["Metric", "PictureTask", "Predict", "Scorer", "compiled", "view_of"]

Figures = dict[str, float]
Predict = Callable[[Any], Any]


class Scorer(Protocol):
    """Counts up the figures of a task."""

    def update(self, targets: Any, outputs: Any) -> None:
        """Takes a batch, as arrays."""

    def result(self) -> Figures:
        """Figures of all batches so far, that of the task's metric among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredTask(Task):
    """A task of the loop whose figures come from a scorer."""

    scorer: Callable[[], Scorer]
    _known: dict[keras.Model, Predict] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def measure(
        self, model: keras.Model, teacher: keras.Model, validation: Iterable
    ) -> Figures:
        # The teacher is asked again and again: traced once.
        if teacher not in self._known:
            self._known[teacher] = compiled(teacher)
        references = {"": self._known[teacher]}
        return score(compiled(model), validation, self.scorer(), references)


class PictureTask:
    """A task on pictures that is no classification.

    Args:
        data: the data set.
        metric: what decides.
        networks: names of the reference networks for it.
        loss: by targets, as for `compile`.
        scorer: makes a new one.
        divergence: of the outputs of two networks.
        distances: for the `Distiller`: how outputs are compared, and of what kind they
            are; None where it finds that itself.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        metric: Metric,
        networks: tuple[str, ...],
        loss: Any,
        scorer: Callable[[], Scorer],
        divergence: Callable[[Any, Any], Any] = regression_divergence,
        distances: tuple[Any, Any] = (None, None),
    ) -> None:
        self.data = data
        self.metric = metric
        self.networks = networks
        self.loss = loss
        self._scorer = scorer
        self._divergence = divergence
        self._distances = distances

    @property
    def outputs(self) -> Any:
        """What a network is told of the outputs: how many classes, or their names."""
        return self.data.num_classes

    def loop_task(self, views: ViewSpec | None) -> Task:
        """What `compress` needs; None of a classifier, which is its default."""
        return ScoredTask(
            loss=self.loss,
            monitor=self.metric.key,
            mode=self.metric.mode,
            divergence=self._divergence,
            view=None if views is None else view_of(views),
            scorer=self._scorer,
        )

    def figures(
        self,
        model: keras.Model,
        batches: Iterable,
        teacher: keras.Model | None = None,
    ) -> Figures:
        """The metric on labelled batches, and the divergence from a teacher."""
        references = {} if teacher is None else {"": compiled(teacher)}
        return score(compiled(model), batches, self._scorer(), references)

    def file_figures(
        self,
        path: Path,
        batches: Iterable,
        *,
        teacher: Predict,
        own: Predict,
        num_threads: int | None,
    ) -> dict[str, Any]:
        """The same of a `.tflite` file, and how far it is from its Keras model."""
        model = TFLiteModel(path, num_threads=num_threads)
        references = {"": teacher, "_to_keras": own}
        return score(model.predict, batches, self._scorer(), references)

    def evaluate_file(
        self,
        path: Path,
        batches: Iterable,
        *,
        reference: keras.Model | None = None,
        num_threads: int | None = None,
    ) -> dict[str, Any]:
        """The metric of a `.tflite` file, and how far the file is from a reference.

        Args:
            path: the file.
            batches: `(pictures, targets)`.
            reference: a Keras model.
            num_threads: CPU threads; None leaves the choice to LiteRT.

        Returns:
            The task's figures and "samples"; with a reference also its metric as
            "reference_" + key, "divergence" and "max_abs_difference".

        Raises:
            ModelFileError: the file's outputs are not those of this task.
        """
        model = TFLiteModel(path, num_threads=num_threads)
        self._check_shapes(_file_shapes(model), str(path))
        if reference is None:
            return score(model.predict, batches, self._scorer(), {})
        scorer, judge = self._scorer(), self._scorer()
        references = {"": compiled(reference)}
        found = score(model.predict, batches, scorer, references, {"": judge})
        key = self.metric.key
        return found | {f"reference_{key}": judge.result()[key]}

    def by_labels(
        self, model: keras.Model, views: ViewSpec, *, seed: int
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A trainer by targets, on pictures as they are, and what it compiles with."""
        return Matching(model, label_weight=1.0, seed=seed), {"loss": self.loss}

    def by_teacher(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        views: ViewSpec,
        seed: int,
        loss: str | None = None,
        temperature: float = 1.0,
        label_weight: float = 0.0,
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A `Distiller` on the raw outputs, and what it compiles with."""
        distance, kinds = self._distances
        distiller = Distiller(
            student,
            teacher,
            views=views,
            loss=distance,
            student_outputs=kinds,
            teacher_outputs=kinds,
            seed=seed,
        )
        return distiller, {}

    def check_outputs(self, model: keras.Model, origin: str) -> None:
        """Raises unless a model's outputs are those of this task.

        Raises:
            ModelFileError: others.
        """
        self._check_shapes(_shapes(model), origin)

    def _check_shapes(self, found: Any, origin: str) -> None:
        wanted = self.output_shapes()
        if found != wanted:
            raise ModelFileError(
                f"Model '{origin}' gives outputs of shape {found}, but data set "
                f"'{self.data.name}' ({self.data.task}) needs {wanted}: use the "
                f"network {' or '.join(self.networks)}, or one with the same outputs."
            )

    def output_shapes(self) -> Any:
        """Shapes of the outputs without the batch: a tuple, or a dict of such."""
        raise NotImplementedError


def _shapes(model: keras.Model) -> Any:
    found = keras.tree.map_structure(
        lambda x: tuple(x.shape[1:]), getattr(model, "output", None)
    )
    if isinstance(found, list) and len(found) == 1:
        return found[0]
    return found


def _file_shapes(model: TFLiteModel) -> Any:
    # As `predict` gives them: one output by itself, several by name.
    shapes = {info.name: tuple(info.shape[1:]) for info in model.outputs}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def compiled(model: keras.Model) -> Predict:
    """The model in inference mode as one graph for all batch sizes.

    Args:
        model: a built model.

    Example:
        >>> tuple(compiled(model)(images).shape)
        (32, 10)
    """
    return tf.function(
        lambda images: model(images, training=False),
        input_signature=[input_specs(model, batch=None)],
    )


def view_of(spec: ViewSpec) -> Callable[[Any, Any], Any] | None:
    """A view function as a `Task` takes it; None where nothing is changed.

    Args:
        spec: of a mode in which both networks see the same.
    """
    if spec.mode == "consistent" and spec.crop == "none" and not spec.flip:
        return None

    def view(inputs: Any, key: Any) -> Any:
        return make_views(inputs, key, spec).student

    return view


def score(
    predict: Predict,
    batches: Iterable,
    scorer: Scorer,
    references: Mapping[str, Predict],
    judges: Mapping[str, Scorer] | None = None,
) -> Figures:
    """Figures of any function of the pictures.

    Args:
        predict: pictures to outputs, as arrays or tensors.
        batches: `(pictures, targets)`.
        scorer: a new one.
        references: other functions by suffix; for each, "divergence" + suffix is the
            squared error relative to its variance, and "max_abs_difference" + suffix
            the largest difference of any output.
        judges: scorers of references, by suffix, for their own figures.

    Returns:
        The scorer's figures, "samples", and those of the references.
    """
    samples = 0
    sums = {name: _Difference() for name in references}
    for pictures, targets in batches:
        outputs = _arrays(predict(pictures))
        targets = _arrays(targets)
        scorer.update(targets, outputs)
        samples += len(keras.tree.flatten(outputs)[0])
        for name, reference in references.items():
            expected = _arrays(reference(pictures))
            sums[name].update(expected, outputs)
            if judges and name in judges:
                judges[name].update(targets, expected)
    found: Figures = scorer.result() | {"samples": samples}
    for name, difference in sums.items():
        found |= {key + name: x for key, x in difference.result().items()}
    return found


def _arrays(values: Any) -> Any:
    # An interpreter that holds one output gives an array, a network perhaps a dict.
    return keras.tree.map_structure(np.asarray, values)


class _Difference:
    """Relative squared error and largest difference over batches, by output."""

    def __init__(self) -> None:
        self._moments: dict[int, np.ndarray] = {}
        self._largest = 0.0

    def update(self, right: Any, found: Any) -> None:
        pairs = zip(keras.tree.flatten(right), keras.tree.flatten(found), strict=True)
        for index, (old, new) in enumerate(pairs):
            old, new = (np.asarray(x, np.float64) for x in (old, new))
            gap = np.abs(old - new)
            # np.maximum, unlike max, keeps a NaN.
            self._largest = float(np.maximum(self._largest, gap.max()))
            sums = np.array([old.size, old.sum(), (old**2).sum(), (gap**2).sum()])
            self._moments[index] = self._moments.get(index, 0.0) + sums

    def result(self) -> Figures:
        total = 0.0
        for count, plain, squares, errors in self._moments.values():
            spread = squares / count - (plain / count) ** 2
            total += errors / count / max(spread, 1e-12)
        return {"divergence": float(total), "max_abs_difference": self._largest}
