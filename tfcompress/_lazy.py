"""Names of a package that load their module on first use.

Recipes and the command line check what they are given before TensorFlow, which takes
seconds, is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package (PEP 562).

    Args:
        package: the package's `__name__`.
        names: public name -> submodule that defines it.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(f"{package}.{names[name]}")
        return getattr(module, name)

    return getattr_, lambda: sorted(names)
