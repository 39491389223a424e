"""Adam with one kernel for each variable and one look at the schedule for each step.

Keras' own asks the schedule anew for every variable that decays, and writes Adam as a
dozen operations for each. They were a third of the time that TensorFlow needs to trace
the training step of a small network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.errors import OptionError


class SharedDecay:
    """For a Keras optimizer: all variables decay by one look at the schedule."""

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        if not self.weight_decay:
            return
        decayed = [_native(v) for v in variables if self._use_weight_decay(v)]

        def shrink(variable: Any, rate: Any) -> None:
            share = tf.cast(self.weight_decay, variable.dtype)
            # Multiplied in the order of Keras, for the same weights to the last bit.
            variable.assign_sub(variable * share * tf.cast(rate, variable.dtype))

        def decay(strategy: tf.distribute.Strategy, rate: Any) -> None:
            for variable in decayed:
                strategy.extended.update(variable, shrink, args=(rate,), group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(
            decay,
            tf.distribute.get_strategy(),
            tf.convert_to_tensor(self.learning_rate),
        )


@keras.saving.register_keras_serializable(package="tfcompress")
class Adam(SharedDecay, keras.optimizers.Adam):
    """`keras.optimizers.Adam` by TensorFlow's own kernel: the same steps, sooner.

    Kingma & Ba 2015, algorithm 1 with the order of section 2; `weight_decay` is
    decoupled (Loshchilov & Hutter 2019), as in `keras.optimizers.AdamW`.

    Args:
        learning_rate: a number or a schedule.
        **kwargs: as for `keras.optimizers.Adam`, but for `amsgrad`.

    Raises:
        OptionError: `amsgrad`, which has no such kernel.

    Example:
        >>> Adam(1e-3, weight_decay=0.01).weight_decay
        0.01
    """

    def __init__(self, learning_rate: Any = 1e-3, **kwargs: Any) -> None:
        if kwargs.get("amsgrad"):
            raise OptionError("amsgrad has no kernel: take keras.optimizers.Adam.")
        super().__init__(learning_rate=learning_rate, **kwargs)

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        # The correction for the zeros that the moments began with, once for all.
        step = tf.cast(self.iterations + 1, tf.float32)
        first, second = (1.0 - tf.pow(x, step) for x in (self.beta_1, self.beta_2))
        corrected = tf.cast(learning_rate, tf.float32) * tf.sqrt(second) / first
        super()._backend_update_step(grads, trainable_variables, corrected)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index, variable = self._get_variable_index(variable), _native(variable)
        mean, square = (
            _native(kept[index]) for kept in (self._momentums, self._velocities)
        )
        # Rows of an embedding come as slices, the same row perhaps twice.
        gradient = tf.convert_to_tensor(tf.cast(gradient, variable.dtype))
        rate = tf.cast(learning_rate, variable.dtype)
        if variable.dtype.size < 4:
            # The kernel takes beta_2 in the type of the weights: in bfloat16 it is 1.
            mean.assign_add((gradient - mean) * (1 - self.beta_1))
            square.assign_add((tf.square(gradient) - square) * (1 - self.beta_2))
            variable.assign_sub(rate * mean / (tf.sqrt(square) + self.epsilon))
            return
        constants = {
            # It would correct for each variable: not what is corrected already.
            "beta1_power": 0.0,
            "beta2_power": 0.0,
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "epsilon": self.epsilon,
        }
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            lr=rate,
            grad=gradient,
            **{k: tf.constant(x, variable.dtype) for k, x in constants.items()},
        )


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
