"""Attention layers whose projections may each be factorized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from tfcompress.errors import UnsupportedModelError, nearest
from tfcompress.layers.einsum_dense import FactorizedEinsumDense
from tfcompress.layers.registry import register_composite
from tfcompress.layers.support import as_ranks

# Where Keras keeps the projections; the gate is there with `use_gate=True`.
_ATTRIBUTES = {
    "query": "_query_dense",
    "key": "_key_dense",
    "value": "_value_dense",
    "gate": "_gate_dense",
    "attention_output": "_output_dense",
}


class FactorizedProjections:
    """What a stock attention layer is given to hold factorized projections."""

    targets: ClassVar[tuple[type, ...]]

    def __init__(
        self,
        *args: Any,
        ranks: Mapping[str, int | Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name in ranks or {}:
            if name not in _ATTRIBUTES:
                hint = nearest(name, _ATTRIBUTES)
                raise ValueError(f"Attention has no projection '{name}'; {hint}")
        self.ranks = {
            name: as_ranks(rank, FactorizedEinsumDense.rank_count)
            for name, rank in (ranks or {}).items()
        }

    def build(
        self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None
    ) -> None:
        super().build(query_shape, value_shape, key_shape)
        for name, ranks in self.ranks.items():
            attribute = _ATTRIBUTES[name]
            if not hasattr(self, attribute):
                raise ValueError(
                    f"Layer '{self.name}' has no projection '{name}': it is built "
                    f"without one. Received: ranks={dict(self.ranks)}"
                )
            dense = getattr(self, attribute)
            low = FactorizedEinsumDense.like(dense, ranks)
            # Keras never forgets a layer that an attribute has held.
            self._tracker.replace_tracked_value("layers", dense, low)
            setattr(self, attribute, low)

    @staticmethod
    def parts(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
        """The projections of a built attention layer, by name."""
        return {
            name: getattr(layer, attribute)
            for name, attribute in _ATTRIBUTES.items()
            if hasattr(layer, attribute)
        }

    @classmethod
    def with_parts(
        cls, layer: keras.layers.Layer, parts: Mapping[str, keras.layers.Layer]
    ) -> keras.layers.Layer:
        """A copy of a built attention layer with other projections.

        Args:
            layer: of this class or one of `targets`; it is not changed.
            parts: projections to replace, by name: built EinsumDense layers, stock or
                factorized, of the equation that stands there.

        Returns:
            A layer of this class, or of the stock class where no projection is
            factorized, with the weights and `trainable` flags of its parts.

        Raises:
            UnsupportedModelError: a layer that cannot be a projection.
        """
        old = cls.parts(layer)
        for name, part in parts.items():
            _check_part(layer, name, old[name], part)
        chosen = old | dict(parts)
        ranks = {
            name: part.ranks
            for name, part in chosen.items()
            if isinstance(part, FactorizedEinsumDense)
        }
        config = layer.get_config()
        config.pop("ranks", None)
        if ranks:
            new = cls.from_config(config | {"ranks": ranks})
        else:
            new = cls.targets[0].from_config(config)
        new.build_from_config(layer.get_build_config())
        new.trainable = layer.trainable
        given = {id(old[name]): part for name, part in chosen.items()}
        for inner, fresh in zip(layer._layers, new._layers, strict=True):
            source = given.get(id(inner), inner)
            fresh.trainable = source.trainable
            for a, b in zip(source.variables, fresh.variables, strict=True):
                b.assign(a)
        return new

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ranks": dict(self.ranks)}


def _check_part(layer: Any, name: str, old: Any, new: Any) -> None:
    known = (keras.layers.EinsumDense, FactorizedEinsumDense)
    same = ("equation", "bias_axes", "activation")
    if type(new) not in known or any(getattr(new, k) != getattr(old, k) for k in same):
        kind = type(new).__name__
        raise UnsupportedModelError(
            f"The projection '{name}' of the attention layer '{layer.name}' can only "
            f"be an EinsumDense or FactorizedEinsumDense like it. Received: {kind}"
        )


@register_composite
class FactorizedMultiHeadAttention(
    FactorizedProjections, keras.layers.MultiHeadAttention
):
    """Multi-head attention whose projections may each be factorized.

    Only the projections differ: scores, masks, dropout and fused kernels are those of
    the stock class. Planning and surgery see each projection as a layer of its own,
    named after the attention layer: "attention/query".

    Args:
        *args, **kwargs: as in `keras.layers.MultiHeadAttention`.
        ranks: ranks of the projections that are factorized, by name: "query", "key",
            "value", "gate" or "attention_output"; the others stay dense.

    Input and output shape: as of the stock class.

    Raises:
        ValueError: a projection that does not exist.
        RankError: ranks that are no positive integers, or too large when it is built.

    Example:
        >>> low = FactorizedMultiHeadAttention(
        ...     2, 16, ranks={"query": 8, "attention_output": 4})
        >>> low.build((None, 10, 32), (None, 10, 32))
        >>> low.query_dense.ranks
        (8,)
    """

    targets = (keras.layers.MultiHeadAttention,)


@register_composite
class FactorizedGroupedQueryAttention(
    FactorizedProjections, keras.layers.GroupQueryAttention
):
    """Grouped-query attention whose projections may each be factorized.

    See `FactorizedMultiHeadAttention`.

    Args:
        *args, **kwargs: as in `keras.layers.GroupQueryAttention`.
        ranks: as there.

    Input and output shape: as of the stock class.

    Raises:
        ValueError: a projection that does not exist.
        RankError: ranks that are no positive integers, or too large when it is built.

    Example:
        >>> low = FactorizedGroupedQueryAttention(16, 4, 2, ranks={"query": 8})
        >>> low.build((None, 10, 32), (None, 10, 32))
        >>> low.ranks
        {'query': (8,)}
    """

    targets = (keras.layers.GroupQueryAttention,)
