"""Reads the operations of a ``.tflite`` file from its flatbuffer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ai_edge_litert import schema_py_generated as schema

# Operations that hold a trained kernel: an integer model with one of these in
# floating point is slower and larger than it claims.
KERNEL_OPS = frozenset(
    {
        "CONV_2D",
        "CONV_3D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "TRANSPOSE_CONV",
        "BATCH_MATMUL",
    }
)

_FLOATS = frozenset({"FLOAT64", "FLOAT32", "FLOAT16", "BFLOAT16"})
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: its kind.
        custom: whether it is none of the built-in ones.
        operands, results: types of the tensors it reads and writes.
        place: name of the (first) tensor that it writes: a path of Keras layers.
        sources: names of the tensors that it reads.
    """

    name: str
    custom: bool
    operands: tuple[str, ...]
    results: tuple[str, ...]
    place: str = ""
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.operands)})"


def read_ops(content: bytes) -> list[Op]:
    """Lists the operations of all subgraphs.

    The interpreter would list the main subgraph only, and after its delegates have
    had their way with it.

    Args:
        content: the bytes of a valid ``.tflite`` file.

    Returns:
        `Op`s in the order of execution; types are those of the TFLite schema, such
        as `"INT8"`.
    """
    model = schema.Model.GetRootAs(content, 0)
    ops = []
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for position in range(graph.OperatorsLength()):
            node = graph.Operators(position)
            code = model.OperatorCodes(node.OpcodeIndex())
            # Codes below 127 may stand in the older one-byte field alone.
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = _names("BuiltinOperator").get(builtin, f"BUILTIN_{builtin}")
            custom = name == "CUSTOM"
            if custom:
                name = (code.CustomCode() or b"?").decode()
            reads = [node.Inputs(i) for i in range(node.InputsLength())]
            writes = [node.Outputs(i) for i in range(node.OutputsLength())]
            ops.append(
                Op(
                    name,
                    custom,
                    _types(graph, reads),
                    _types(graph, writes),
                    next(iter(_tensor_names(graph, writes)), ""),
                    _tensor_names(graph, reads),
                )
            )
    return ops


def foreign_ops(ops: list[Op]) -> list[str]:
    """Names of the Flex and custom operations, which a plain runtime lacks."""
    return sorted({op.name for op in ops if op.custom})


def float_ops(ops: list[Op], *, wide: bool = False) -> list[Op]:
    """The operations that an integer file should not have.

    Those that compute in floating point (conversions at the ends aside), and the ones
    with a trained kernel that do not write int8 (or int16) throughout.

    Args:
        ops: of the file.
        wide: activations are int16.
    """
    activations = "INT16" if wide else "INT8"
    weights = {"INT4", "INT8", "INT32", *(("INT16", "INT64") if wide else ())}
    return [
        op
        for op in ops
        if op.name not in _CONVERSIONS
        and (
            {*op.operands, *op.results} & _FLOATS
            or op.name in KERNEL_OPS
            and not (set(op.operands) <= weights and set(op.results) == {activations})
        )
    ]


def stored_bytes(content: bytes) -> dict[str, int]:
    """Bytes of constants by type, the most first."""
    model = schema.Model.GetRootAs(content, 0)
    names = _names("TensorType")
    found: dict[str, int] = {}
    counted = set()
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            buffer = model.Buffers(tensor.Buffer())
            # Large files keep constants behind the flatbuffer.
            size = buffer.DataLength() or buffer.Size()
            if size and tensor.Buffer() not in counted:
                counted.add(tensor.Buffer())
                kind = names[tensor.Type()]
                found[kind] = found.get(kind, 0) + size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@cache
def _names(enumeration: str) -> dict[int, str]:
    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def _types(graph, indices) -> tuple[str, ...]:
    names = _names("TensorType")
    return tuple(names[graph.Tensors(i).Type()] for i in indices if i >= 0)


def _tensor_names(graph, indices) -> tuple[str, ...]:
    found = (graph.Tensors(i).Name() or b"" for i in indices if i >= 0)
    return tuple(name.decode(errors="replace") for name in found)
