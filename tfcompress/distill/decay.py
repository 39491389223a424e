"""Weight decay on the product of factors, not on the factors."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfcompress.layers import FactorizedLayer
from tfcompress.trace import descendants


class ProductDecay:
    """Decoupled Frobenius decay of a model's factorized layers.

    Decay of the factors `u`, `v` one by one penalises the nuclear norm of `u v` and
    drives small singular values to zero; what the dense layer had is decay of the
    product: each step subtracts `rate` times the gradient of `|u v|^2 / 2` (Khodak et
    al. 2021, "Initialization and regularization of factorized neural layers", section
    3.2).

    Args:
        model: the network that is trained.
        rate: decay for a learning rate of one, as Keras' `weight_decay`.
    """

    def __init__(self, model: keras.Model, rate: float) -> None:
        found = [
            x
            for x in descendants(model)
            if isinstance(x, FactorizedLayer) and x.trainable and x.built
        ]
        self.rate = rate
        self.layers = tuple(found)

    def factors(self) -> list[Any]:
        """The variables that decay together, for the optimizer to leave alone."""
        return [getattr(x, name) for x in self.layers for name in x.factor_names]

    def apply(self, learning_rate: Any) -> None:
        """One step of decay; in the graph of the training step.

        Args:
            learning_rate: of this step: call it before the optimizer has counted on.
        """
        changed, steps = [], []
        for layer in self.layers:
            factors = [getattr(layer, name).value for name in layer.factor_names]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(factors)
                energy = tf.reduce_sum(tf.square(layer.product())) / 2.0
            for factor, gradient in zip(
                factors, tape.gradient(energy, factors), strict=True
            ):
                step = tf.cast(learning_rate, factor.dtype) * self.rate
                changed.append(factor)
                steps.append(step * tf.cast(gradient, factor.dtype))

        def update(strategy: tf.distribute.Strategy, steps: list[Any]) -> None:
            for factor, step in zip(changed, steps, strict=True):
                strategy.extended.update(
                    factor, lambda f, s: f.assign_sub(s), args=(step,), group=False
                )

        # As Keras decays its weights: each replica's copy, by the same step.
        tf.__internal__.distribute.interim.maybe_merge_call(
            update, tf.distribute.get_strategy(), steps
        )
