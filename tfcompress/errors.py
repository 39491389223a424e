"""Errors that a user can act on. Each message is one line: thing, reason, way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfcompressError(Exception):
    """Base of all errors this package raises on purpose (exit code 2 on the CLI)."""


class UnsupportedModelError(TfcompressError, ValueError):
    """The model cannot be rebuilt, traced or exported."""


class NothingToCompressError(TfcompressError, ValueError):
    """No layer can be made smaller under the given plan or budget."""


class BudgetError(TfcompressError, ValueError):
    """A budget is out of range or incomplete."""


class RankError(TfcompressError, ValueError):
    """A rank is out of range for the layer it is meant for."""


class DegenerateError(TfcompressError, ValueError):
    """A decomposition of this rank has no stable solution."""


class OptionError(TfcompressError, ValueError):
    """An option that does not exist or is out of range."""


class RecipeError(TfcompressError, ValueError):
    """A recipe file does not say what it must."""


class RunFolderError(TfcompressError, RuntimeError):
    """A run folder cannot be written, is in use, or belongs to another recipe."""


class ModelFileError(TfcompressError, ValueError):
    """A file does not hold the kind of model it should."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'x'?", or the known names where none is near.

    Example:
        >>> nearest("epoch", ["epochs", "steps"])
        "did you mean 'epochs'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(known)
