"""SOAP: Shampoo with Adam in the eigenbasis of its preconditioner."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.adam import SharedDecay
from tfcompress.errors import OptionError


@keras.saving.register_keras_serializable(package="tfcompress")
class SOAP(SharedDecay, keras.optimizers.Optimizer):
    """Second-order optimizer for kernels of any rank.

    Along each axis of a kernel the covariance of the gradient is averaged; Adam runs in
    the basis of these covariances' eigenvectors, which one step of orthogonal iteration
    (a QR decomposition) brings up to date now and then. Vectors, and axes longer than
    `max_axis`, are treated as by Adam. The first step only starts the averages.

    Beyer et al. 2021 (section 3.3) reach with Shampoo (Gupta et al. 2018; Anil et al.
    2020) in 1,200 epochs what Adam reaches in 4,800. SOAP is the same preconditioner,
    with one setting more than Adam.

    Args:
        learning_rate: a number or a schedule.
        beta_1: decay of the mean of the gradient.
        beta_2: decay of the mean of its square, in the eigenbasis.
        shampoo_beta: decay of the covariances.
        epsilon: added to the root of the mean square.
        update_every: steps between updates of the basis.
        max_axis: longest axis that has a covariance; memory of a kernel is that of
            Adam plus twice the sum of the squares of its axes.
        name: of the optimizer.
        **kwargs: as of every Keras optimizer: weight_decay, global_clipnorm and so on.

    Raises:
        OptionError: an argument out of range.

    Reference: Vyas et al. 2024, "SOAP: Improving and stabilizing Shampoo using Adam",
    algorithm 3.

    Example:
        >>> SOAP(3e-3, weight_decay=0.1).update_every
        10
    """

    def __init__(
        self,
        learning_rate: Any = 3e-3,
        *,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        shampoo_beta: float = 0.95,
        epsilon: float = 1e-8,
        update_every: int = 10,
        max_axis: int = 2048,
        name: str = "soap",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        for what, beta in (
            ("beta_1", beta_1),
            ("beta_2", beta_2),
            ("shampoo_beta", shampoo_beta),
        ):
            if not 0.0 <= beta < 1.0:
                raise OptionError(f"{what} must lie in [0, 1). Received: {beta}")
        if not (epsilon > 0 and update_every >= 1 and max_axis >= 1):
            raise OptionError(
                "epsilon, update_every and max_axis must be positive. Received: "
                f"epsilon={epsilon}, update_every={update_every}, max_axis={max_axis}"
            )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.shampoo_beta = shampoo_beta
        self.epsilon = epsilon
        self.update_every = update_every
        self.max_axis = max_axis

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )
        # By place of the variable; lists of lists would not be tracked by Keras.
        self._axes: list[tuple[int, ...]] = []
        self._first: list[int] = []
        self._covariances: list[Any] = []
        self._bases: list[Any] = []
        for variable in variables:
            axes = self._axes_of(tuple(variable.shape))
            self._axes.append(axes)
            self._first.append(len(self._bases))
            for axis in axes:
                size = variable.shape[axis]
                for kept, start in (
                    (self._covariances, "zeros"),
                    (self._bases, keras.initializers.Identity()),
                ):
                    kept.append(
                        self.add_variable(
                            (size, size), start, dtype="float32", name="preconditioner"
                        )
                    )

    def _axes_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len([n for n in shape if n > 1]) < 2:
            return ()
        return tuple(i for i, n in enumerate(shape) if 1 < n <= self.max_axis)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        axes, first = self._axes[index], self._first[index]
        momentum, velocity = self._momentums[index], self._velocities[index]
        bases = self._bases[first : first + len(axes)]
        covariances = self._covariances[first : first + len(axes)]
        gradient = tf.convert_to_tensor(tf.cast(gradient, tf.float32))
        step = tf.cast(self.iterations, tf.float32)
        rotations = [tf.convert_to_tensor(basis) for basis in bases]

        # With axes to precondition, the first step has no basis yet: nothing moves.
        moves = tf.cast(step > 0.0, tf.float32) if axes else 1.0
        count = tf.maximum(step, 1.0) if axes else step + 1.0
        mean = tf.cast(momentum, tf.float32)
        mean += moves * (1.0 - self.beta_1) * (gradient - mean)
        square = tf.cast(velocity, tf.float32)
        rotated = _rotate(gradient, axes, rotations)
        square += moves * (1.0 - self.beta_2) * (tf.square(rotated) - square)
        corrected = mean / (1.0 - tf.pow(self.beta_1, count))
        scale = tf.sqrt(square / (1.0 - tf.pow(self.beta_2, count))) + self.epsilon
        direction = _rotate(corrected, axes, rotations) / scale
        direction = _rotate(direction, axes, rotations, back=True)
        rate = moves * tf.cast(learning_rate, tf.float32)
        self.assign_sub(variable, tf.cast(rate * direction, variable.dtype))
        self.assign(momentum, tf.cast(mean, momentum.dtype))

        renew = tf.equal(tf.cast(self.iterations, tf.int64) % self.update_every, 0)
        for place, axis in enumerate(axes):
            kept = tf.convert_to_tensor(covariances[place])
            kept += (1.0 - self.shampoo_beta) * (_covariance(gradient, axis) - kept)
            self.assign(covariances[place], kept)
            basis, order = tf.cond(
                renew,
                lambda c=kept, q=rotations[place]: _better_basis(c, q),
                lambda q=rotations[place]: (q, tf.range(tf.shape(q)[0])),
            )
            self.assign(bases[place], basis)
            # The mean squares go with their directions.
            square = tf.gather(square, order, axis=axis)
        self.assign(velocity, tf.cast(square, velocity.dtype))

    def get_config(self) -> dict[str, Any]:
        names = ("beta_1", "beta_2", "shampoo_beta", "epsilon", "update_every")
        own = {name: getattr(self, name) for name in (*names, "max_axis")}
        return super().get_config() | own


def _rotate(
    tensor: Any, axes: tuple[int, ...], bases: list[Any], *, back: bool = False
) -> Any:
    """Coordinates of a tensor in the given basis of each axis, or back from them."""
    rank = tensor.shape.rank
    for axis, basis in zip(axes, bases, strict=True):
        tensor = tf.tensordot(tensor, basis, [[axis], [1 if back else 0]])
        # The new axis comes last.
        order = list(range(rank - 1))
        order.insert(axis, rank - 1)
        tensor = tf.transpose(tensor, order)
    return tensor


def _covariance(gradient: Any, axis: int) -> Any:
    others = [i for i in range(gradient.shape.rank) if i != axis]
    return tf.tensordot(gradient, gradient, [others, others])


def _better_basis(covariance: Any, basis: Any) -> tuple[Any, Any]:
    """One step of orthogonal iteration, the largest estimated eigenvalue first."""
    turned = tf.matmul(covariance, basis)
    values = tf.reduce_sum(basis * turned, axis=0)
    order = tf.argsort(values, direction="DESCENDING", stable=True)
    found, _ = tf.linalg.qr(tf.gather(turned, order, axis=1))
    return found, order
