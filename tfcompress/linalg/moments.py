"""Second moments of a layer's inputs: the metric in which its output error is measured.

With inputs `x` and an error `D` of the kernel, the mean squared error of the outputs is
`E|x D|^2 = trace(D' S D)` with `S = E[x x']`. A decomposition that is best in this
metric, not in the Frobenius norm, loses least of what the layer computes (Zhang et al.
2016, "Accelerating very deep convolutional networks", section 3; ALS-Sigma, Kalle et
al. 2025).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.linalg

# Relative to the mean variance of an input: directions that the calibration data hardly
# show must not be free, for other data will show them.
RIDGE = 1e-4


def _regularized(second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`second` with a ridge, and the lower Cholesky factor of that."""
    if not np.all(np.isfinite(second)):
        raise ValueError(
            "The moments hold NaN or infinity: the data or the network they come "
            "from are broken. "
            f"Received: {np.count_nonzero(~np.isfinite(second))} such values"
        )
    scale = np.trace(second) / len(second)
    ridge = RIDGE * scale if scale > 0.0 else 1.0
    metric = second + ridge * np.eye(len(second))
    try:
        root = scipy.linalg.cholesky(metric, lower=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        # Inputs far from zero that hardly vary: of their covariances rounding (the sums
        # are of float32) is the larger part, and makes some variances negative. By how
        # much tells how large it is; what is smaller cannot be told apart.
        lowest = scipy.linalg.eigvalsh(second, subset_by_index=(0, 0))[0]
        metric = second + (ridge - 2.0 * lowest) * np.eye(len(second))
        root = scipy.linalg.cholesky(metric, lower=True, check_finite=False)
    return metric, root


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the rows a kernel is multiplied with.

    Either of whole patches, `p = taps * in`, or of single channels, `p = in`; the taps
    of a kernel then count as independent (the metric is `I` Kronecker `second`).

    Attributes:
        second: `E[x x']`, float64 of shape `(p, p)`.
        mean: `E[x]`, shape `(p,)`.
        count: number of rows seen.
        cross: asymmetric mode: `E[x z']` with `z` the rows the uncompressed network
            sees in the same places, shape `(p, p)`; None where they are the same.
        target_mean: `E[z]`, shape `(p,)`; None as `cross`.

    Example:
        >>> rows = np.array([[1.0, 0.0], [3.0, 0.0]])
        >>> moments = Moments(rows.T @ rows / 2, rows.mean(axis=0), count=2)
        >>> round(moments.output_energy(np.eye(2)), 2)
        5.0
    """

    second: np.ndarray
    mean: np.ndarray
    count: int
    cross: np.ndarray | None = None
    target_mean: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Length `p` of a row."""
        return self.second.shape[0]

    def centred(self) -> Moments:
        """Covariances in place of moments: for layers whose bias takes up the mean."""
        second = self.second - np.outer(self.mean, self.mean)
        cross = self.cross
        if cross is not None:
            cross = cross - np.outer(self.mean, self.target_mean)
        return dataclasses.replace(self, second=second, cross=cross)

    @functools.cached_property
    def _regular(self) -> tuple[np.ndarray, np.ndarray]:
        return _regularized(self.second)

    @property
    def metric(self) -> np.ndarray:
        """`second` with a small ridge: positive definite, shape `(p, p)`.

        Raises:
            ValueError: the moments are not finite.
        """
        return self._regular[0]

    @property
    def root(self) -> np.ndarray:
        """Lower triangular `L` with `L L' = metric`."""
        return self._regular[1]

    def _count_blocks(self, rows: int) -> int:
        if rows % self.size:
            raise ValueError(
                "The moments do not belong to this kernel. Received: moments of "
                f"{self.size} inputs, a kernel of {rows} rows"
            )
        return rows // self.size

    def blocks(self, matrix: np.ndarray) -> np.ndarray:
        """A kernel matrix `(taps * in, out)` as `(blocks, p, out)`.

        Raises:
            ValueError: the rows are no multiple of `p`.
        """
        shape = (self._count_blocks(len(matrix)), self.size, matrix.shape[1])
        return np.asarray(matrix, np.float64).reshape(shape)

    def whiten(self, matrix: np.ndarray) -> np.ndarray:
        """`L' @ matrix`, block by block: its Frobenius norm is the output error."""
        return np.matmul(self.root.T, self.blocks(matrix)).reshape(matrix.shape)

    def unwhiten(self, matrix: np.ndarray) -> np.ndarray:
        """Inverse of `whiten`."""
        solved = [
            scipy.linalg.solve_triangular(
                self.root, block, lower=True, trans="T", check_finite=False
            )
            for block in self.blocks(matrix)
        ]
        return np.concatenate(solved)

    def gram(self, matrix: np.ndarray) -> np.ndarray:
        """`matrix' metric matrix` for `(taps * in, n)`: shape `(n, n)`."""
        white = self.whiten(matrix)
        return white.T @ white

    def output_energy(self, matrix: np.ndarray) -> float:
        """Mean squared norm of the outputs `x @ matrix`."""
        return float(np.sum(np.square(self.whiten(matrix))))

    def channels(self, count: int) -> Moments:
        """Moments of single channels, averaged over the taps.

        Args:
            count: number of channels; `p` is a multiple of it.

        Raises:
            ValueError: `p` is no multiple of `count`.
        """
        if self.size == count:
            return self
        if self.size % count:
            raise ValueError(
                "The moments do not belong to this kernel. Received: moments of "
                f"{self.size} inputs, a kernel of {count} channels"
            )
        taps = self.size // count

        def averaged(matrix: np.ndarray) -> np.ndarray:
            cube = matrix.reshape(taps, count, taps, count)
            return np.einsum("sisj->ij", cube) / taps

        def averaged_mean(mean: np.ndarray) -> np.ndarray:
            return mean.reshape(taps, count).mean(axis=0)

        rows = self.count * taps
        found = Moments(averaged(self.second), averaged_mean(self.mean), rows)
        if self.cross is None:
            return found
        return dataclasses.replace(
            found,
            cross=averaged(self.cross),
            target_mean=averaged_mean(self.target_mean),
        )

    def project(self, basis: np.ndarray) -> Moments:
        """Moments of `x @ basis`, and of `z @ basis`, each tap's channels alike.

        Args:
            basis: shape `(in, r)`.
        """
        channels, rank = basis.shape
        taps = self.size // channels

        def turned(matrix: np.ndarray) -> np.ndarray:
            cube = matrix.reshape(taps, channels, taps, channels)
            cube = np.tensordot(cube, basis, axes=(3, 0))
            cube = np.tensordot(basis, cube, axes=(0, 1))  # (r, s, t, r)
            return np.moveaxis(cube, 0, 1).reshape(taps * rank, taps * rank)

        def turned_mean(mean: np.ndarray) -> np.ndarray:
            return (mean.reshape(taps, channels) @ basis).ravel()

        projected = Moments(turned(self.second), turned_mean(self.mean), self.count)
        if self.cross is None:
            return projected
        return dataclasses.replace(
            projected,
            cross=turned(self.cross),
            target_mean=turned_mean(self.target_mean),
        )

    def target(self, matrix: np.ndarray) -> np.ndarray:
        """The kernel whose outputs on these inputs come nearest to the right ones.

        In the symmetric mode the kernel itself. In the asymmetric mode the inputs are
        those of the compressed network, and least squares makes up for what the layers
        before have lost (Zhang et al. 2016, section 3.3).

        Args:
            matrix: shape `(taps * in, out)`.
        """
        if self.cross is None:
            return matrix
        # The ridge draws towards the kernel as it is, not towards zero.
        ridge = self.metric - self.second
        rows = self.blocks(matrix)
        right = np.matmul(self.cross + ridge, rows)
        solved = [
            scipy.linalg.cho_solve((self.root, True), block, check_finite=False)
            for block in right
        ]
        return np.concatenate(solved)

    def patch_mean(self, rows: int, *, target: bool = False) -> np.ndarray:
        """Mean of the whole patch that a kernel of `rows` rows meets: `(rows,)`.

        Args:
            rows: `taps * in`.
            target: of the patch in the uncompressed network, where they differ.

        Raises:
            ValueError: the rows are no multiple of `p`.
        """
        mean = self.mean
        if target and self.target_mean is not None:
            mean = self.target_mean
        return np.tile(mean, self._count_blocks(rows))

    def mean_response(self, matrix: np.ndarray) -> np.ndarray:
        """Mean output of a kernel matrix in the uncompressed network: `(out,)`."""
        return self.patch_mean(len(matrix), target=True) @ matrix
