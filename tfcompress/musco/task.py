"""What a network is for: how it is judged, and how a smaller one is trained for it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.distill import (
    Distiller,
    Matching,
    Supervised,
    ViewSpec,
    evaluate,
    output_divergence,
)
from tfcompress.errors import TfcompressError
from tfcompress.musco.tuning import FineTuning

Divergence = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task with a loss and metrics of its own; classifiers need none.

    For regression, segmentation, detection heads, several outputs: whatever
    `keras.Model.compile` takes.

    Args:
        loss: as for `compile`; needed where labels are used to train.
        metrics: as for `compile`.
        monitor: name of the metric (or "loss") that decides whether a round is kept.
        mode: "max" where more of it is better, "min" where less.
        divergence: how far two networks' outputs are apart; for outputs that are no
            classes `tfcompress.distill.regression_divergence`.
        view: `view(inputs, key) -> inputs`, random and stateless: what teacher and
            student see while training.

    Raises:
        TfcompressError: a mode that does not exist.

    Example:
        >>> Task(loss="mse", metrics=["mae"], monitor="mae", mode="min").mode
        'min'
    """

    loss: Any = None
    metrics: Any = ()
    monitor: str = "loss"
    mode: str = "min"
    divergence: Divergence = output_divergence
    view: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise TfcompressError(
                f"mode must be 'max' or 'min'. Received: mode={self.mode!r}"
            )

    def measure(
        self, model: keras.Model, teacher: keras.Model, validation: tf.data.Dataset
    ) -> dict[str, float]:
        """Figures of a model on the validation data, `divergence` among them."""
        weight = 1.0 if self.loss is not None else 0.0
        # A trainer around the model: compiling leaves the model itself alone.
        judge = Matching(
            model,
            teacher,
            match_weight=1.0 - weight,
            label_weight=weight,
            divergence=self.divergence,
        )
        metrics = self.metrics
        if isinstance(metrics, tuple):
            metrics = list(metrics)
        judge.compile(loss=self.loss, metrics=metrics)
        with _fresh(metrics):
            figures = judge.evaluate(validation, verbose=0, return_dict=True)
        figures = {name: float(value) for name, value in figures.items()}
        if self.monitor not in figures:
            raise TfcompressError(
                f"The figure to monitor, '{self.monitor}', is none of those measured: "
                f"{', '.join(sorted(figures))}."
            )
        return figures

    def trainer(
        self,
        model: keras.Model,
        teacher: keras.Model,
        tuning: FineTuning,
        *,
        seed: int,
    ) -> tuple[keras.Model, dict[str, Any]]:
        """What trains the model, and the arguments for its `compile`."""
        distil = tuning.by == "distillation"
        label_weight = tuning.label_weight if distil else 1.0
        if label_weight and self.loss is None:
            raise TfcompressError("Fine-tuning by labels needs a task with a loss.")
        if tuning.views is not None or tuning.temperature != 1.0:
            raise TfcompressError(
                "views and temperature are for classifiers: give the task a view and a "
                f"divergence of its own instead. Received: views={tuning.views}, "
                f"temperature={tuning.temperature}"
            )
        trainer = Matching(
            model,
            teacher if distil else None,
            label_weight=label_weight,
            divergence=self.divergence,
            view=self.view,
            seed=seed,
        )
        return trainer, {"loss": self.loss} if label_weight else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """The default task: a classifier of integer labels, judged by its accuracy."""

    monitor: str = "accuracy"
    mode: str = "max"
    divergence: Divergence = output_divergence

    def measure(
        self, model: keras.Model, teacher: keras.Model, validation: tf.data.Dataset
    ) -> dict[str, float]:
        """Accuracy, and agreement and divergence from the teacher."""
        return evaluate(model, validation, teacher=teacher)

    def trainer(
        self,
        model: keras.Model,
        teacher: keras.Model,
        tuning: FineTuning,
        *,
        seed: int,
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A `Distiller`, or `Supervised` for training by labels."""
        views = tuning.views
        if views is None:
            crop = "mild" if _takes_images(model) else "none"
            views = ViewSpec(mode="consistent", crop=crop, flip=False)
        if tuning.by == "labels":
            return Supervised(model, views=views, seed=seed), {}
        distiller = Distiller(
            model,
            teacher,
            views=views,
            temperature=tuning.temperature,
            label_weight=tuning.label_weight,
            seed=seed,
        )
        return distiller, {}


def _takes_images(model: keras.Model) -> bool:
    shape = getattr(model, "input_shape", None)
    return isinstance(shape, tuple) and len(shape) == 4


@contextlib.contextmanager
def _fresh(metrics: Any) -> Iterator[None]:
    """Has metrics count from nothing, and puts them back as the caller gave them.

    Copies would not do: a Keras config leaves out what its class does not list, such
    as the `axis` of `CosineSimilarity`, and often all that a class of the user takes.
    """
    found = [m for m in tf.nest.flatten(metrics) if isinstance(m, keras.metrics.Metric)]
    states = [[np.array(v) for v in metric.variables] for metric in found]
    # Keras does not when it evaluates for the first time.
    _reset(found)
    try:
        yield
    finally:
        _reset(found)
        for metric, state in zip(found, states, strict=True):
            # Not strict: some variables may have been made only now.
            for variable, value in zip(metric.variables, state, strict=False):
                variable.assign(value)


def _reset(metrics: Sequence[keras.metrics.Metric]) -> None:
    for metric in metrics:
        # One that has no variables yet may not know how.
        if metric.variables:
            metric.reset_state()
