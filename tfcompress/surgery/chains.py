"""Layers that hand their output to one other layer, and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def graph_of(model: keras.Model) -> Any:
    """The functional graph of a Sequential or Functional model."""
    return model._functional if isinstance(model, keras.Sequential) else model


def chained(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Pairs `(layer, reader)`: the reader alone reads what the layer gives.

    Both are called once, in the same graph, and the layer gives no output of the model.

    Args:
        model: a built Sequential or Functional model; nested ones are looked into.
    """
    for graph in _graphs(model):
        nodes = [n for some in graph._nodes_by_depth.values() for n in some]
        readers: dict[int, list[Any]] = {}
        for node in nodes:
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node)
        given = {id(tensor) for tensor in graph.outputs}
        for node in nodes:
            if node.is_input or len(node.outputs) != 1:
                continue
            after = readers.get(id(node.outputs[0]), [])
            if len(after) == 1 and id(node.outputs[0]) not in given:
                pair = (node.operation, after[0].operation)
                if all(_is_called_once(one) for one in pair):
                    yield pair


def _graphs(model: keras.Model) -> Iterator[Any]:
    graph = graph_of(model)
    if getattr(graph, "_nodes_by_depth", None) is None:
        return
    yield graph
    for layer in graph.layers:
        if isinstance(layer, keras.Model):
            yield from _graphs(layer)


def _is_called_once(layer: Any) -> bool:
    # A Sequential model calls its layers once more, on the same tensors.
    return len({id(node.input_tensors[0]) for node in layer._inbound_nodes}) == 1
