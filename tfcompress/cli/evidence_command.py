"""`tfcompress evidence`: the claims tfcompress rests on, and whether they held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.common import Json, print_table


def add_evidence_command(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(evidence)


def evidence(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder: only the claims it used.")
    ] = None,
    bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Print the papers' BibTeX instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the claims that tfcompress rests on, and whether they held here."""
    from tfcompress.evidence import CLAIMS, claims_of_run
    from tfcompress.evidence import bibtex as entries

    used = None if run is None else claims_of_run(run)
    claims = CLAIMS if used is None else [one.claim for one in used]
    if bibtex:
        typer.echo(entries(claim.paper for claim in claims), nl=False)
        return
    if as_json:
        found = used if used is not None else claims
        typer.echo(json.dumps([one.to_dict() for one in found], indent=1))
        return
    table = [["claim", "paper", "verdict", "figures"]]
    for index, claim in enumerate(claims):
        verdict = claim.verdict()
        table.append([claim.title, claim.paper.short, verdict.outcome, verdict.figures])
        if used is not None:
            table[-1].insert(1, ", ".join(used[index].uses))
    if used is not None:
        table[0].insert(1, "used by")
    if used == []:
        typer.echo("No stage of this run rests on a claim.")
        return
    print_table(table)
