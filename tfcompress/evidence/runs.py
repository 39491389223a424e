"""Which claims a run used, from its report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfcompress.evidence.claim import Claim
from tfcompress.evidence.claims import CLAIMS
from tfcompress.evidence.results import EvidenceError
from tfcompress.evidence.verdict import Verdict


@dataclasses.dataclass(frozen=True)
class UsedClaim:
    """A claim that a run rests on.

    Attributes:
        claim: the claim.
        verdict: what our experiment says.
        uses: where the run's recipe rests on it, such as "compress.rounds: 2".

    Example:
        >>> used = claims_of({"recipe": {"stages": [{"compress": {"rounds": 2}}]}})[0]
        >>> used.to_dict()["uses"]
        ['compress.rounds: 2']
    """

    claim: Claim
    verdict: Verdict
    uses: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Claim, verdict and uses as plain data; see `Claim.to_dict`."""
        return self.claim.to_dict() | {"uses": list(self.uses)}


def claims_of(report: Mapping[str, Any]) -> list[UsedClaim]:
    """The claims that a run rests on, with their verdicts.

    Args:
        report: as `report.json` of a run folder holds it; its recipe is read.

    Returns:
        In the order of `CLAIMS`; empty where no stage of the recipe rests on any.

    Raises:
        EvidenceError: no report of a run.

    Example:
        >>> recipe = {"stages": [{"compress": {"rounds": 2}}]}
        >>> claims_of({"recipe": recipe})[0].uses
        ('compress.rounds: 2',)
    """
    recipe = report.get("recipe") if isinstance(report, Mapping) else None
    stages = recipe.get("stages") if isinstance(recipe, Mapping) else None
    if not isinstance(stages, list) or not all(isinstance(s, Mapping) for s in stages):
        raise EvidenceError("The report holds no recipe with stages.")
    found = []
    for claim in CLAIMS:
        uses = tuple(u for use in claim.uses if (u := use.found_in(stages)) is not None)
        if uses:
            found.append(UsedClaim(claim, claim.verdict(), uses))
    return found


def claims_of_run(folder: str | Path) -> list[UsedClaim]:
    """The claims that the run in a folder rests on; see `claims_of`.

    Args:
        folder: a run folder with its `report.json`.

    Raises:
        EvidenceError: no such folder, no report in it, or no report of a run.

    Example:
        >>> claims_of_run("runs/digits")[0].claim.paper.short
        'Gusak et al. 2019 (MUSCO)'
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvidenceError(f"There is no run folder '{folder}'.")
    path = folder / "report.json"
    if not path.is_file():
        raise EvidenceError(
            f"'{folder}' holds no report.json: it is no run folder, or its run has not "
            "come to an end."
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvidenceError(f"'{path}' is no report of a run: not JSON.") from error
    try:
        return claims_of(report)
    except EvidenceError as error:
        raise EvidenceError(
            f"'{path}' is no report of a run: no recipe in it."
        ) from error
