"""What is public: the pages of the API reference and the tests of docstrings use it."""

from __future__ import annotations

import importlib
import inspect

# Packages whose `__all__` is the public interface, in the order of the work.
PACKAGES = {
    "tfcompress": "From Python",
    "tfcompress.data": "Data",
    "tfcompress.ranks": "Ranks and budgets",
    "tfcompress.musco": "The loop",
    "tfcompress.distill": "Distillation",
    "tfcompress.surgery": "Surgery",
    "tfcompress.layers": "Factorized layers",
    "tfcompress.linalg": "Decompositions",
    "tfcompress.deploy": "Files",
    "tfcompress.quantize": "Quantization, pruning, clustering",
    "tfcompress.tasks": "Tasks",
    "tfcompress.stages": "Stages",
    "tfcompress.evidence": "Evidence",
    "tfcompress.lineage": "Lineage",
    "tfcompress.page": "Report",
}


def public_names(package: str) -> dict[str, str]:
    """Public functions and classes of a package: name -> where it is defined."""
    module = importlib.import_module(package)
    found = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            found[name] = f"{thing.__module__}.{thing.__qualname__}"
    return found
