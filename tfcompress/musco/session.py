"""What both schedules share: data, measuring, and one attempt at a round."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress.cost import layer_specs
from tfcompress.deploy import LatencyTable
from tfcompress.distill import fit
from tfcompress.files import write_atomically
from tfcompress.linalg import Moments
from tfcompress.musco.result import Figures, Round
from tfcompress.musco.task import Classification, Task
from tfcompress.musco.tuning import FineTuning, probe_learning_rate
from tfcompress.ranks import Budget, Budgeted, Plan, RankSelector
from tfcompress.sensitivity import Curve, measure_sensitivity
from tfcompress.spec import Cost, LayerSpec
from tfcompress.statistics import collect_moments, factorize_on_data
from tfcompress.surgery import copy_model, factorize, recalibrate_batch_norm

Progress = Callable[[float, int, dict[str, float]], None]

# Training batches that batch norm's statistics are taken from, at least.
_RECALIBRATION_BATCHES = 32
# The error of a layer's outputs that rounds tell the sensitivity at.
_TOLD_ERROR = 0.1
# Batches of validation data that judge a learning rate.
_PROBE_BATCHES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """One compression: what stays the same over its rounds.

    Args:
        model: the original.
        train, validation: batches.
        teacher: whom fine-tuning matches.
        task: how models are judged and trained.
        tuning: how long and how fast.
        rounds: how many are expected, for the progress.
        calibration_steps: batches for statistics and recalibration; 0 takes plain
            factors.
        asymmetric: each layer's factors make up for what the layers before lost.
        cache: folder that keeps what was measured, or None.
        seed: of views.
        progress: called with (epochs done, epochs in all, figures).
    """

    model: keras.Model
    train: tf.data.Dataset
    validation: tf.data.Dataset
    teacher: keras.Model
    task: Task | Classification
    tuning: FineTuning
    rounds: int
    calibration_steps: int
    asymmetric: bool
    cache: Path | None
    seed: int
    progress: Progress | None

    def prepared(self, selector: RankSelector, target: Budget) -> RankSelector:
        """The selector, with what a target of latency needs measured."""
        if target.latency is None or not isinstance(selector, Budgeted):
            return selector
        table = selector.latency
        if table is None:
            path = None if self.cache is None else self.cache / "latency.json"
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            table = LatencyTable(path)
        check = table.check(self.model)
        return dataclasses.replace(selector, latency=table, rest_ms=check.gap_ms)

    def measure(self, model: keras.Model) -> Figures:
        """Validation figures of a model."""
        return self.task.measure(model, self.teacher, self.validation)

    def drop(self, original: Figures, now: Figures) -> float:
        """How much worse the monitored figure has become; negative if better."""
        worse = original[self.task.monitor] - now[self.task.monitor]
        return worse if self.task.mode == "max" else -worse

    def profile(self, current: keras.Model, *, sensitivity: bool) -> dict[str, Any]:
        """Scores for a rank selector: moments of every layer, and its sensitivity."""
        if not self.calibration_steps:
            return {}
        moments = collect_moments(current, self.train, steps=self.calibration_steps)
        curves = self._sensitivity(current, moments) if sensitivity else {}
        return {
            path: {"moments": moments.get(path), "sensitivity": curves.get(path)}
            for path in {**moments, **curves}
        }

    def _sensitivity(
        self, current: keras.Model, moments: Mapping[str, Moments]
    ) -> dict[str, Curve]:
        path = None
        if self.cache is not None:
            # Moments tell of the data and of all weights before the last layer.
            path = self.cache / f"sensitivity-{_fingerprint(current, moments)}.json"
        if path is not None and path.exists():
            known = json.loads(path.read_text())
            return {name: Curve(**points) for name, points in known.items()}
        curves = measure_sensitivity(
            current,
            self.train,
            moments=moments,
            steps=max(self.calibration_steps // 4, 1),
            divergence=self.task.divergence,
        )
        if path is not None:
            points = {name: curve.to_dict() for name, curve in curves.items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(points, indent=1))
        return curves

    def attempt(
        self,
        current: keras.Model,
        plan: Plan,
        scores: Mapping[str, Mapping[str, Any]],
        *,
        index: int,
        budget: Budget | None = None,
    ) -> tuple[keras.Model, Round]:
        """Factorizes, recalibrates and fine-tunes; the round is not judged yet."""
        candidate = self.factorized(current, plan, scores)
        factorized = self.measure(candidate)
        candidate = self.recalibrated(candidate)
        recalibrated = self.measure(candidate)
        tuned = copy_model(candidate)
        rate, curves = self._fine_tune(tuned, index)
        fine_tuned = self.measure(tuned)
        # After few steps the moving averages are behind the weights: then the network
        # is better than it looks.
        fresh = self.recalibrated(tuned)
        refreshed = self.measure(fresh)
        if self.drop(fine_tuned, refreshed) < 0.0:
            tuned, fine_tuned = fresh, refreshed
        # As MUSCO reloads its best checkpoint: training must not make it worse.
        better = self.drop(recalibrated, fine_tuned) <= 0.0
        found = Round(
            budget=budget,
            plan=plan,
            factorized=factorized,
            recalibrated=recalibrated,
            fine_tuned=fine_tuned,
            kept="fine_tuned" if better else "recalibrated",
            learning_rate=rate,
            accepted=True,
            sensitivity={
                path: float(found["sensitivity"](_TOLD_ERROR))
                for path, found in scores.items()
                if found.get("sensitivity") is not None
            },
            history=curves,
        )
        return tuned if better else candidate, found

    def recalibrated(self, model: keras.Model) -> keras.Model:
        """A copy with batch-norm statistics of the training batches."""
        steps = max(self.calibration_steps, _RECALIBRATION_BATCHES)
        return recalibrate_batch_norm(model, self.train, steps=steps)

    def factorized(
        self,
        current: keras.Model,
        plan: Plan,
        scores: Mapping[str, Mapping[str, Any]],
    ) -> keras.Model:
        """A copy with the plan's ranks; data-aware factors where data were measured."""
        if self.asymmetric and self.calibration_steps:
            return factorize_on_data(
                current,
                plan.choices(),
                self.train,
                steps=self.calibration_steps,
                asymmetric=True,
            )
        moments = {path: found.get("moments") for path, found in scores.items()}
        return factorize(current, plan.choices(), moments)

    def _fine_tune(
        self, candidate: keras.Model, index: int
    ) -> tuple[float, dict[str, list[float]]]:
        """Trains the candidate itself; its learning rate, and the curves."""
        tuning, seed = self.tuning, self.seed + index

        def make(model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
            return self.task.trainer(model, self.teacher, tuning, seed=seed)

        rate = tuning.learning_rate
        if rate == "probe":
            rate = probe_learning_rate(
                candidate,
                make,
                self.train,
                self._quick_score,
                weight_decay=tuning.weight_decay,
                jit_compile=tuning.jit_compile,
            )
        epochs, per_epoch = tuning.length(self.train)
        trainer, options = make(candidate)
        curves = fit(
            trainer,
            self.train,
            None,
            epochs=epochs,
            steps_per_epoch=per_epoch,
            learning_rate=rate,
            weight_decay=tuning.weight_decay,
            jit_compile=tuning.jit_compile,
            compile_options=options,
            progress=_shifted(self.progress, index, self.rounds, epochs),
        )
        return float(rate), curves

    def _quick_score(self, model: keras.Model) -> float:
        few = self.validation.take(_PROBE_BATCHES)
        figures = self.task.measure(model, self.teacher, few)
        # The divergence tells more than an accuracy of a few hundred samples.
        return -figures["kl" if "kl" in figures else "divergence"]


def _fingerprint(model: keras.Model, moments: Mapping[str, Moments]) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    for path in sorted(moments):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(moments[path].mean, np.float32).tobytes())
    return digest.hexdigest()[:16]


def total(specs: list[LayerSpec], field: str = "cost") -> Cost:
    """Sum of the costs of layers."""
    return Cost(*map(sum, zip(*(getattr(s, field) for s in specs), strict=True)))


def specs_and_cost(model: keras.Model) -> tuple[list[LayerSpec], Cost]:
    """Layers of a model and their cost together."""
    specs = layer_specs(model)
    return specs, total(specs)


def merged(*scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores of several sources, layer by layer; of equal names the last one's."""
    paths = {path: None for found in scores for path in found}
    return {
        path: {key: v for found in scores for key, v in found.get(path, {}).items()}
        for path in paths
    }


def _shifted(
    progress: Progress | None, attempt: int, rounds: int, epochs: int
) -> Progress | None:
    if progress is None:
        return None
    in_all = max(rounds, attempt + 1) * epochs

    def report(epoch: float, _: int, figures: dict[str, float]) -> None:
        progress(attempt * epochs + epoch, in_all, figures | {"round": attempt + 1})

    return report
