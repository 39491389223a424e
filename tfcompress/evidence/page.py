"""The page of the documentation that lists claims and verdicts."""

from __future__ import annotations

from tfcompress.evidence.claim import Claim
from tfcompress.evidence.claims import CLAIMS
from tfcompress.evidence.verdict import NOT_TESTED

_HEAD = """\
<!-- Written by `python -m benchmarks.evidence`; do not edit. -->

# What it rests on, and whether it held

tfcompress rests on claims of papers. Here is which, what in tfcompress rests on each or
answers to it, the benchmark that tests it, and what the committed result says:

- **supports**: it held here;
- **contrasts**: what we found speaks against it;
- **undecided**: the differences are within the noise, or go both ways;
- **not tested**: there is no result yet.

A verdict is computed from the result by the rule that stands with the claim; none is
typed in. One comparison over three seeds says little: a difference as large as its
standard error comes about by chance, to either side, in one case of five. So rules ask
for a majority of many comparisons, and for twice that difference where there are fewer
than six. All of it is small: networks and data that two processor cores train in
minutes to hours. A verdict says what we found at this size, not whether a paper is
right.

```sh
tfcompress evidence                    # this list
tfcompress evidence runs/quickstart    # the claims that a run used
tfcompress evidence --bibtex > refs.bib
```

```python
from tfcompress.evidence import CLAIMS

for claim in CLAIMS:
    print(claim.key, claim.verdict().outcome)
```
"""


def page() -> str:
    """The page as Markdown, from the claims and the packaged results."""
    lines = [_HEAD, "| claim | paper | verdict |", "| --- | --- | --- |"]
    for claim in CLAIMS:
        link = f"[{claim.title}](#{claim.key})"
        outcome = claim.verdict().outcome
        lines.append(f"| {link} | {claim.paper.short} | **{outcome}** |")
    for claim in CLAIMS:
        lines += ["", *_section(claim)]
    return "\n".join(lines) + "\n"


def _section(claim: Claim) -> list[str]:
    verdict = claim.verdict()
    source = f"[{claim.paper.short}]({claim.paper.url}), {claim.section}"
    experiment = f"`benchmarks/{claim.benchmark}.py`"
    if verdict.outcome != NOT_TESTED:
        result = f"../benchmarks/results/{claim.result}.md"
        experiment += f", [its results]({result})"
    return [
        f'<a id="{claim.key}"></a>',
        "",
        f"## {claim.title}",
        "",
        f"{claim.statement} ({source})",
        "",
        f"**{verdict.outcome.capitalize()}.** {verdict.figures}",
        "",
        f"- Context: {claim.context}",
        f"- In tfcompress: {', '.join(f'`{name}`' for name in claim.rests)}.",
        f"- Experiment: {experiment}.",
        f"- Rule: {claim.rule_text}",
    ]
