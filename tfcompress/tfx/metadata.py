"""ML Metadata as something to read from.

This module imports no tfx, and ml_metadata only when it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfcompress.lineage.record import LineageError

_SQLITE_MARK = b"SQLite format 3\x00"


def open_store(file: Path) -> Any:
    """A store to read from.

    Args:
        file: SQLite, as LocalDagRunner writes it.

    Returns:
        An `ml_metadata.MetadataStore` that writes nothing.

    Raises:
        LineageError: no such file, or another one; or ml_metadata is missing.
    """
    try:
        from ml_metadata import errors, metadata_store
        from ml_metadata.proto import metadata_store_pb2
    except ImportError as error:
        raise LineageError(
            "Reading ML Metadata needs the package ml_metadata, which comes with the "
            "extra tfx: pip install 'tfcompress[tfx]'."
        ) from error
    # A store that is not there would be made.
    try:
        with file.open("rb") as opened:
            mark = opened.read(len(_SQLITE_MARK))
    except OSError as error:
        raise LineageError(
            f"ML Metadata '{file}' cannot be read: {error.strerror}."
        ) from error
    if mark != _SQLITE_MARK:
        raise LineageError(f"'{file}' is no SQLite file of ML Metadata.")
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(file)
    config.sqlite.connection_mode = (
        metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    )
    try:
        store = metadata_store.MetadataStore(config)
        store.get_artifact_types()
    except (errors.StatusError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LineageError(f"'{file}' is no ML Metadata: {reason}") from error
    return store


def values_of(node: Any) -> dict[str, Any]:
    """Properties and custom properties as plain values."""
    return {
        key: getattr(value, value.WhichOneof("value"))
        for held in (node.properties, node.custom_properties)
        for key, value in held.items()
        if value.WhichOneof("value")
    }
