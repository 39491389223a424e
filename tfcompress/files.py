"""Files written whole, and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with write_with(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def write_with(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes its name only when it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of what a file holds.

    Of a `.keras` file: its configuration and weights, but not the date of saving nor
    the memory addresses that Keras numbers shared objects by, so equal models have
    equal hashes. Of any other file: its bytes.
    """
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return file_hash(path)
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name != "metadata.json":
                digest.update(f"{name}\n".encode())
                data = archive.read(name)
                digest.update(_canonical(data) if name == "config.json" else data)
    return digest.hexdigest()


def _canonical(config: bytes) -> bytes:
    numbers: dict[int, int] = {}

    def renumber(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return {
            key: numbers.setdefault(value, len(numbers))
            if key == "shared_object_id"
            else value
            for key, value in pairs
        }

    return json.dumps(json.loads(config, object_pairs_hook=renumber)).encode()
