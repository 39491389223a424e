"""A claim of a paper, what rests on it here, and how it was tested."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfcompress.evidence.papers import Paper
from tfcompress.evidence.results import find_result
from tfcompress.evidence.verdict import Verdict, not_tested

Rule = Callable[[Mapping[str, Any]], Verdict]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """An option of a stage that rests on a claim.

    Attributes:
        stage: name of the stage in recipes.
        option: its field, dotted where it is nested; None: the stage itself.
        values: the values that rest on the claim; empty: any but None and 0.
        above: with numbers: those above this.

    Example:
        >>> use = Use(stage="compress", option="rounds", above=1)
        >>> use.found_in([{"compress": {"rounds": 2}}])
        'compress.rounds: 2'
    """

    stage: str
    option: str | None = None
    values: tuple[Any, ...] = ()
    above: float | None = None

    def found_in(self, stages: Sequence[Mapping[str, Any]]) -> str | None:
        """How a recipe's stages use it, such as "compress.rounds: 2", or None.

        Args:
            stages: as in `Recipe.to_dict`: a mapping of one name to its options each.
        """
        for entry in stages:
            if self.stage not in entry:
                continue
            if self.option is None:
                return self.stage
            value: Any = entry[self.stage]
            for part in self.option.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if self._matches(value):
                return f"{self.stage}.{self.option}: {value}"
        return None

    def _matches(self, value: Any) -> bool:
        if self.above is not None:
            return isinstance(value, (int, float)) and value > self.above
        return value in self.values if self.values else bool(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Attributes:
        key: its name here.
        title: in a few words.
        paper: who makes it.
        section: where.
        statement: the claim in our words.
        context: what it was found on, and what our test has in common with that.
        rests: dotted names of code or defaults of tfcompress that rest on it, or answer
            to it.
        uses: options of recipes that rest on it.
        benchmark: the module in `benchmarks/` that tests it.
        result: the result file that the rule reads.
        rule: turns the result into a verdict.
        rule_text: the rule in words.

    Example:
        >>> CLAIMS[0].key, CLAIMS[0].paper.short
        ('musco-iterating', 'Gusak et al. 2019 (MUSCO)')
    """

    key: str
    title: str
    paper: Paper
    section: str
    statement: str
    context: str
    rests: tuple[str, ...]
    uses: tuple[Use, ...]
    benchmark: str
    result: str
    rule: Rule
    rule_text: str

    def verdict(self, results: Mapping[str, Any] | None = None) -> Verdict:
        """What the committed results say.

        Args:
            results: name -> document to judge by instead of the committed ones.

        Raises:
            EvidenceError: a result that cannot be read.
        """
        if results is None:
            document = find_result(self.result)
        else:
            document = results.get(self.result)
        if document is None:
            return not_tested(f"benchmarks/{self.benchmark}.py has no result yet.")
        return self.rule(document)

    def to_dict(self) -> dict[str, Any]:
        """The claim and its verdict as plain data."""
        return {
            "claim": self.key,
            "title": self.title,
            "paper": self.paper.short,
            "reference": self.paper.key,
            "url": self.paper.url,
            "section": self.section,
            "statement": self.statement,
            "context": self.context,
            "rests": list(self.rests),
            "benchmark": self.benchmark,
            "result": self.result,
            "rule": self.rule_text,
            "verdict": self.verdict().to_dict(),
        }
