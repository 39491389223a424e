"""What is in a `.tflite` file: inputs, operations, constants, and what it says."""

from __future__ import annotations

import collections
import dataclasses
import os
from pathlib import Path
from typing import Any

from tfcompress.deploy.flatbuffer import read_ops, stored_bytes
from tfcompress.deploy.metadata import content_hash, read_metadata
from tfcompress.deploy.tflite_model import TensorInfo, TFLiteModel
from tfcompress.files import file_hash


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A `.tflite` file, described.

    Attributes:
        path: the file.
        bytes: its size.
        sha256: of its bytes.
        inputs, outputs: under the names of its signature.
        ops: how often each operation with its operand types occurs.
        constants: bytes of constants by type.
        metadata: what `export_tflite` wrote into it, or None.
        intact: whether the file still computes what it did when that was written;
            None without metadata.

    Example:
        >>> file = inspect_tflite("model.tflite")
        >>> file.inputs[0].name, file.intact
        ('image', True)
    """

    path: Path
    bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ops: dict[str, int]
    constants: dict[str, int]
    metadata: dict[str, Any] | None
    intact: bool | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        found = dataclasses.asdict(self)
        found["path"] = str(self.path)
        for side in ("inputs", "outputs"):
            for info in found[side]:
                del info["index"]
        return found

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.bytes:,} bytes, SHA-256 {self.sha256}"]
        for side in ("inputs", "outputs"):
            for info in getattr(self, side):
                shape = ", ".join("?" if n is None else str(n) for n in info.shape)
                scale = f", scale {info.scale:g}, zero {info.zero_point}"
                lines.append(
                    f"{side[:-1]} {info.name}: {info.dtype} ({shape})"
                    f"{scale if info.scale else ''}"
                )
        lines += [f"{count:>5}  {op}" for op, count in self.ops.items()]
        for kind, size in self.constants.items():
            lines.append(f"constants {kind}: {size:,} bytes")
        if self.metadata is None:
            return "\n".join([*lines, "no metadata of tfcompress"])
        for key, value in self.metadata.items():
            lines.append(f"{key}: {value}")
        lines.append(
            "contents: as exported" if self.intact else "contents: CHANGED since export"
        )
        return "\n".join(lines)


def inspect_tflite(path: str | os.PathLike) -> Inspection:
    """Describes a `.tflite` file, whoever wrote it.

    Args:
        path: the file.

    Raises:
        ModelFileError: the file is no working TFLite model.

    Example:
        >>> print(inspect_tflite("model.tflite"))
        model.tflite: ... bytes, SHA-256 ...
        input image: float32 (?, 8, 8, 1)
        ...
    """
    path = Path(path)
    model = TFLiteModel(path)
    content = path.read_bytes()
    metadata = read_metadata(content)
    counted = collections.Counter(str(op) for op in read_ops(content))
    return Inspection(
        path=path,
        bytes=len(content),
        sha256=file_hash(path),
        inputs=model.inputs,
        outputs=model.outputs,
        ops=dict(counted.most_common()),
        constants=stored_bytes(content),
        metadata=metadata,
        intact=(
            None
            if metadata is None
            else metadata.get("content_sha256") == content_hash(content)
        ),
    )
