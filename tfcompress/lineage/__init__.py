"""What made a model: data, teacher, ranks, options and version, read from a run.

Importing this package does not import TensorFlow. ML Metadata is read by
`tfcompress.tfx.lineage`.
"""

from tfcompress.lineage.local import lineage_of_run
from tfcompress.lineage.record import Layer, Lineage, LineageError, Step
from tfcompress.lineage.subject import Subject, open_subject

__all__ = [
    "Layer",
    "Lineage",
    "LineageError",
    "Step",
    "Subject",
    "lineage_of_run",
    "open_subject",
]
