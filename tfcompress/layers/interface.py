"""What a layer type is asked: shapes, cost, decomposition. No variables here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress.errors import RankError
from tfcompress.layers import registry
from tfcompress.layers.sampling import Sample
from tfcompress.layers.support import as_ranks, to_numpy, unsupported_reason
from tfcompress.linalg import Moments
from tfcompress.spec import Cost, LayerSpec

Factors = dict[str, np.ndarray]


class LayerType:
    """The interface of a factorized layer type, all but its variables.

    A type says which stock layers it can stand for (`targets`, `supports`), what it
    costs (`max_ranks`, `factor_shapes`, `macs`: plain arithmetic on shapes), and how
    its factors come from a kernel and give it back (`decompose`, `compose`,
    `truncate_factors`). Planning calls nothing else and builds nothing.
    """

    targets: ClassVar[tuple[type, ...]] = ()
    rank_count: ClassVar[int] = 1
    factor_names: ClassVar[tuple[str, ...]] = ()
    # Attribute of the stock layer that holds its kernel; one for all types of a target.
    kernel_name: ClassVar[str] = "kernel"
    # Further weights that are taken over as they are; the bias is apart.
    kept_names: ClassVar[tuple[str, ...]] = ()
    # Whether moments of the inputs mean anything to this type: `input_rows` exists.
    has_statistics: ClassVar[bool] = True
    # Whether each rank cuts the singular values of an unfolding (`spectra`).
    spectral: ClassVar[bool] = True

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> str | None:
        """None if this type can replace the built layer, else the reason."""
        return unsupported_reason(layer, cls.kernel_name)

    @classmethod
    def stock_kernel(cls, layer: keras.layers.Layer) -> np.ndarray:
        """The kernel of a built stock layer, as `decompose` takes it.

        In the layout of the layer's weight, unless the kernel's shape would not tell
        which of its axes belong to the inputs: that of EinsumDense is a matrix here.
        """
        return to_numpy(getattr(layer, cls.kernel_name))

    @classmethod
    def stock_kernel_shape(cls, layer: keras.layers.Layer) -> tuple[int, ...]:
        """Shape of `stock_kernel`, without reading a weight."""
        return tuple(getattr(layer, cls.kernel_name).shape)

    @classmethod
    def max_ranks(cls, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Largest useful ranks for a kernel: at these the product is exact."""
        raise NotImplementedError

    @classmethod
    def factor_shapes(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the factors for a kernel of that shape."""
        raise NotImplementedError

    @classmethod
    def macs(
        cls, spec: LayerSpec, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        """Multiply-accumulates of one sample over all calls of the layer."""
        raise NotImplementedError

    @classmethod
    def decompose(
        cls,
        kernel: np.ndarray,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        """Factors of the best approximation of a dense kernel.

        Args:
            kernel: in the layout of the stock layer.
            ranks: at most `max_ranks`.
            moments: of the inputs: best for the layer's outputs on them; None: best
                in the Frobenius norm.
        """
        raise NotImplementedError

    @classmethod
    def compose(cls, factors: Factors) -> np.ndarray:
        """The dense kernel that factors stand for."""
        raise NotImplementedError

    @classmethod
    def truncate_factors(
        cls,
        factors: Factors,
        ranks: tuple[int, ...],
        moments: Moments | None = None,
    ) -> Factors:
        """Factors at lower ranks, found in core form: the dense kernel is not built."""
        raise NotImplementedError

    @classmethod
    def errors(
        cls,
        kernel: np.ndarray,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        """Relative squared errors of `decompose` at many candidate ranks at once.

        Args:
            kernel: in the layout of the stock layer.
            candidates: tuples of ranks.
            moments: of the inputs: errors of the outputs; None: of the kernel.

        Returns:
            Array of shape `(len(candidates),)`, values in [0, 1].
        """
        raise NotImplementedError

    def factor_errors(
        self,
        candidates: Sequence[tuple[int, ...]],
        moments: Moments | None = None,
    ) -> np.ndarray:
        """As `errors`, of cutting this layer's product further, in core form."""
        raise NotImplementedError

    @classmethod
    def input_rows(
        cls, layer: Any, inputs: Any, *, whole: bool, sample: Sample | None = None
    ) -> Any:
        """The rows that the kernel of a layer is multiplied with.

        Args:
            layer: a built stock layer of `targets`, or a layer of this type.
            inputs: a batch of its inputs.
            whole: rows of whole patches `(taps * in)`; else of single channels.
            sample: which rows are taken; all of them by default.

        Returns:
            Tensor of shape `(rows, taps * in)` or `(rows, in)`.

        Raises:
            NotImplementedError: the type has no statistics (`has_statistics`).
        """
        raise NotImplementedError(f"{cls.__name__} takes no statistics of its inputs.")

    @classmethod
    def takes_mean(cls, layer: Any) -> bool:
        """Whether a layer, stock or of this type, has a bias for every output.

        Such a bias takes up what the factors change of the mean outputs.
        """
        return layer.use_bias

    @classmethod
    def metric(cls, layer: Any, moments: Moments | None) -> Moments | None:
        """The moments that errors of a layer's outputs are measured with.

        Args:
            layer: a built stock layer of `targets`, or a layer of this type.
            moments: of its inputs, or None.

        Returns:
            Where the bias takes up the mean, only the variance counts. None where
            there are no moments, or the type takes none.
        """
        if moments is None or not cls.has_statistics:
            return None
        return moments.centred() if cls.takes_mean(layer) else moments

    @classmethod
    def as_matrix(cls, kernel: np.ndarray) -> np.ndarray:
        """A kernel as the matrix `(taps * in, out)` that `input_rows` belong to."""
        return kernel.reshape(-1, kernel.shape[-1])

    @classmethod
    def mean_response(cls, factors: Factors, mean: np.ndarray) -> np.ndarray:
        """Response to a mean input row `(taps * in)`, bias apart: shape `(out,)`."""
        return mean @ cls.as_matrix(cls.compose(factors))

    @classmethod
    def spectra(cls, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        """Singular values of the unfolding that each rank cuts."""
        raise NotImplementedError

    @classmethod
    def unfolding_shapes(
        cls, kernel_shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], ...]:
        """Shapes of the matrices that `spectra` belongs to."""
        raise NotImplementedError

    def factor_spectra(self) -> tuple[np.ndarray, ...]:
        """As `spectra`, of the product of this layer's factors, in core form."""
        raise NotImplementedError

    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel this built layer stands for, as of `stock_kernel`."""
        raise NotImplementedError

    def expand(self) -> list[keras.layers.Layer]:
        """The same function as a chain of built stock Keras layers.

        A kernel regularizer acts on the product of the factors and has no stock
        counterpart: the chain carries none.
        """
        raise NotImplementedError

    @classmethod
    def cost(cls, spec: LayerSpec, ranks: int | Sequence[int]) -> Cost:
        """Predicted cost at `ranks`, from shapes alone.

        Args:
            spec: the layer to be replaced.
            ranks: integer or tuple, at most `max_ranks`.

        Returns:
            `Cost(params, macs, bytes)`; equals what the built layer has.
        """
        shape = kernel_shape_of(spec.layer)
        ranks = cls.check_ranks(shape, ranks)
        params = cls.factor_params(shape, ranks) + cls.kept_params(spec.layer)
        return Cost(params, cls.macs(spec, shape, ranks), params * spec.itemsize)

    @classmethod
    def factor_params(
        cls, kernel_shape: tuple[int, ...], ranks: tuple[int, ...]
    ) -> int:
        """Number of weights of the factors."""
        return sum(map(math.prod, cls.factor_shapes(kernel_shape, ranks).values()))

    @classmethod
    def kept_params(cls, layer: Any) -> int:
        """Weights beside the kernel or its factors: the bias and what `kept_names` has.

        Args:
            layer: a built stock layer of `targets`, or a layer of this type.
        """
        shape = kernel_shape_of(layer)
        factorized = isinstance(layer, LayerType)
        own = cls.factor_params(shape, layer.ranks) if factorized else math.prod(shape)
        return layer.count_params() - own

    @classmethod
    def check_ranks(
        cls, kernel_shape: tuple[int, ...], ranks: int | Sequence[int]
    ) -> tuple[int, ...]:
        """`ranks` as a tuple.

        Raises:
            RankError: a rank is not in `[1, max_ranks]`.
        """
        ranks = as_ranks(ranks, cls.rank_count)
        largest = cls.max_ranks(kernel_shape)
        if any(r > limit for r, limit in zip(ranks, largest, strict=True)):
            raise RankError(
                f"{cls.__name__}: ranks must be at most {largest} for a kernel of "
                f"shape {kernel_shape}. Received: ranks={ranks}"
            )
        return ranks


def kernel_shape_of(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Kernel shape of a stock layer or of the layer a factorized one stands for.

    Args:
        layer: a built layer, stock or factorized.

    Returns:
        Sizes of the kernel: input axes before output axes.

    Example:
        >>> kernel_shape_of(model.get_layer("head"))
        (144, 10)
    """
    if isinstance(layer, LayerType):
        return layer.kernel_shape()
    return _type_for(layer).stock_kernel_shape(layer)


def kernel_of(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a built stock layer, as layer types decompose it.

    Args:
        layer: a built stock layer.

    Returns:
        Array of the shape that `kernel_shape_of` gives.

    Example:
        >>> kernel_of(model.get_layer("conv")).shape
        (3, 3, 1, 16)
    """
    return _type_for(layer).stock_kernel(layer)


def kernel_variable(layer: keras.layers.Layer) -> Any:
    """The variable of a built stock layer that `kernel()` of its types belongs to.

    Args:
        layer: a built stock layer.

    Returns:
        A Keras variable.

    Example:
        >>> kernel_variable(model.get_layer("head")).name
        'kernel'
    """
    return getattr(layer, _type_for(layer).kernel_name)


def _type_for(layer: keras.layers.Layer) -> type[LayerType]:
    """A type that knows the layer's kernel; all types of one target agree on it."""
    return next(iter(registry.types_for(layer)), LayerType)
