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


@dataclass(frozen=True)
class Op:
    """One operation: its name and the tensor types it reads and writes."""

    name: str
    custom: bool
    operands: tuple[str, ...]
    results: tuple[str, ...]

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
            reads = (node.Inputs(i) for i in range(node.InputsLength()))
            writes = (node.Outputs(i) for i in range(node.OutputsLength()))
            ops.append(Op(name, custom, _types(graph, reads), _types(graph, writes)))
    return ops


def foreign_ops(ops: list[Op]) -> list[str]:
    """Names of the Flex and custom operations, which a plain runtime lacks."""
    return sorted({op.name for op in ops if op.custom})


def float_kernel_ops(ops: list[Op]) -> list[str]:
    """The kernel operations that do not work on int8 tensors throughout."""
    return [
        str(op)
        for op in ops
        if op.name in KERNEL_OPS
        and not (
            set(op.operands) <= {"INT4", "INT8", "INT32"}
            and set(op.results) == {"INT8"}
        )
    ]


@cache
def _names(enumeration: str) -> dict[int, str]:
    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def _types(graph, indices) -> tuple[str, ...]:
    names = _names("TensorType")
    return tuple(names[graph.Tensors(i).Type()] for i in indices if i >= 0)
