"""Brings the evidence up to date with the benchmarks' results.

    python -m benchmarks.evidence

Copies what the rules of `tfcompress.evidence` read of `benchmarks/results` into the
package, and writes `docs/evidence.md`. To be run after a benchmark that a claim rests
on; a test fails until it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from tfcompress import evidence
from tfcompress.evidence.page import page
from tfcompress.evidence.results import KEPT, condensed
from tfcompress.files import write_atomically

PACKAGED = Path(evidence.__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"


def packaged(results: Path = RESULTS) -> dict[str, str]:
    """Text of every condensed result that there is, by file name.

    Grids save their cells as they end, and write their table when all are done: a
    result without its table is not finished, and is left out.

    Args:
        results: folder with the benchmarks' results.
    """
    found = {}
    for name in KEPT:
        path = results / f"{name}.json"
        if path.exists() and path.with_suffix(".md").exists():
            document = condensed(name, json.loads(path.read_text(encoding="utf-8")))
            found[f"{name}.json"] = _text(document)
    return found


def _text(document: Mapping[str, Any]) -> str:
    """JSON with one cell a line, so that a changed cell is one changed line."""
    machine = json.dumps(document["machine"])
    if "cells" in document:
        rows = [
            f"{json.dumps(k)}: {json.dumps(v)}" for k, v in document["cells"].items()
        ]
        body = '"cells": {\n' + ",\n".join(rows) + "\n}"
    else:
        rows = [json.dumps(row) for row in document["data"]]
        body = '"data": [\n' + ",\n".join(rows) + "\n]"
    return f'{{"machine": {machine},\n{body}}}\n'


def main() -> None:
    for name, text in packaged().items():
        write_atomically(PACKAGED / name, text)
    write_atomically(PAGE, page())
    for claim in evidence.CLAIMS:
        verdict = claim.verdict()
        print(f"{claim.key}: {verdict.outcome}. {verdict.figures}")


if __name__ == "__main__":
    main()
