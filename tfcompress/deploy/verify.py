"""Is a written `.tflite` file what was asked for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from ai_edge_litert.interpreter import Interpreter

from tfcompress.deploy.convert import SIGNATURE, layers_at
from tfcompress.deploy.flatbuffer import (
    Op,
    float_ops,
    foreign_ops,
    read_ops,
    stored_bytes,
)
from tfcompress.deploy.forms import ExportError
from tfcompress.deploy.interface import Interface
from tfcompress.deploy.tflite_model import kernels

# What the weights must hold, in the forms that compute in float.
_STORED = {
    "float16": "FLOAT16",
    "dynamic": "INT8",
    "weight_int8": "INT8",
    "weight_int4": "INT4",
}


def verify(
    written: Path,
    *,
    name: str,
    model: keras.Model,
    interface: Interface,
    quantization: str,
    allow: tuple[str, ...] = (),
) -> None:
    """Raises unless the file loads, bears the model's names and is of its form.

    Args:
        written: the file.
        name: what errors call it.
        model: the model; errors name its layers.
        interface: its inputs.
        quantization, allow: see `export_tflite`.

    Raises:
        ExportError: says what the file is not, and which layers are at fault.
    """
    content = written.read_bytes()
    ops = read_ops(content)
    foreign = foreign_ops(ops)
    if foreign and "flex" not in allow:
        raise ExportError(
            f"The export of '{name}' needs operations outside the built-ins: "
            f"{', '.join(foreign)}{_places(model, [op for op in ops if op.custom])}; "
            "replace the layers that use them, or allow=('flex',)."
        )
    if not foreign:
        _load(written, name, interface)
    if quantization in ("int8", "16x8") and "float" not in allow:
        floats = float_ops(ops, wide=quantization == "16x8")
        if floats:
            shown = sorted({str(op) for op in floats})
            raise ExportError(
                f"The export of '{name}' is not integer throughout: "
                f"{', '.join(shown)}{_places(model, floats)}; leave these layers out, "
                "use quantization='dynamic', or allow=('float',)."
            )
    stored = _STORED.get(quantization)
    if stored and stored not in stored_bytes(content):
        raise ExportError(
            f"The export of '{name}' holds no {stored} weights: none of its kernels "
            f"can be stored as {quantization} (they may be too small); use another "
            "quantization."
        )


def _load(written: Path, name: str, interface: Interface) -> None:
    try:
        interpreter = Interpreter(
            str(written),
            experimental_op_resolver_type=kernels(use_xnnpack=False),
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"The export of '{name}' does not load in LiteRT: {first.strip()[:300]}"
        ) from error
    try:
        # As runtimes do by default: with XNNPACK, which takes fewer scales.
        Interpreter(str(written)).allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"The export of '{name}' loads in LiteRT, but not with its fast kernels "
            "(XNNPACK): channels or layers differ too much in size for int8; see "
            "`tfcompress.quantize.equalize`."
        ) from error
    names = interpreter.get_signature_list().get(SIGNATURE, {}).get("inputs", [])
    if set(names) != set(interface.specs):
        raise ExportError(
            f"The export of '{name}' lost its input names: the file has {names}, "
            f"the model {list(interface.specs)}; an input must influence an output, "
            "and its name should be made of letters, digits and underscores."
        )


def _places(model: Any, ops: list[Op]) -> str:
    found = layers_at(model, [op.place for op in ops])
    return f" (layers {', '.join(repr(name) for name in found)})" if found else ""
