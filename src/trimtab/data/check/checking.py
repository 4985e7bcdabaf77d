"""`check_pairs`: everything that can be said of contrast pairs before a fit."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data.check.findings import Finding, Placed, by_concept
from trimtab.data.check.lengths import Lengths, check_lengths, measure_lengths, tokenised_or_none
from trimtab.data.check.loading import of_concept, read_all
from trimtab.data.check.overlap import check_overlap
from trimtab.data.check.tells import Openings, Tell, check_openings, check_tells, measure_tells, openings
from trimtab.data.check.texts import check_texts, folded, said
from trimtab.data.tokenise import TokenisedPair
from trimtab.models.text_side import TextSide

_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class ConceptLook:
    """What one concept's pairs are like.

    Attributes:
        concept: Its name, its number, or nothing where the pairs name none.
        pairs: How many.
        same_request: Share of the pairs whose positive prompt holds the negative one: both sides are asked the same.
        lengths: Of the answers.
        openings: Of the answers.
        tells: The n-grams that tell the answers apart best.
        prompt_tells: Those that tell the prompts apart best.
    """

    concept: str
    pairs: int
    same_request: float
    lengths: Lengths
    openings: Openings
    tells: tuple[Tell, ...]
    prompt_tells: tuple[Tell, ...]


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        source: What was checked.
        rows: Rows that were read.
        pairs: Pairs that were looked at.
        skipped: Rows left out because their concept id is negative.
        concepts: One entry a concept.
        findings: Errors first, then warnings, then notes.
    """

    source: str
    rows: int
    pairs: int
    skipped: int
    concepts: tuple[ConceptLook, ...]
    findings: tuple[Finding, ...]

    @property
    def loadable(self) -> bool:
        """Whether `load_pairs` takes it."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings are warnings."""
        return sum(finding.level == "warning" for finding in self.findings)


def check_pairs(
    source: str, *, side: TextSide | None = None, concept: str | None = None, against: str | None = None
) -> Checked:
    """Looks for what is wrong or doubtful in contrast pairs.

    Args:
        source: As in `load_pairs`.
        side: How a model reads, for lengths in its tokens, its context and its template.
        concept: Name or number of the only concept to look at.
        against: Other pairs, with which they should have no text in common.

    Raises:
        InputError: A source cannot be read at all, or has not the concept.
        NetworkError: The Hub cannot be reached.
    """
    loaded = read_all(source)
    pairs = of_concept(loaded, concept)
    findings = list(loaded.errors)
    looks: tuple[ConceptLook, ...] = ()
    if pairs:
        findings += check_texts(pairs, side)
        tokens: list[TokenisedPair | None] | None = None
        if side is not None:
            tokens, found = tokenised_or_none(pairs, side)
            findings += found
        looks = _looks(pairs, tokens)
        findings += check_lengths({look.concept: (look.pairs, look.lengths) for look in looks})
        findings += check_openings({look.concept: (look.pairs, look.openings) for look in looks})
        findings += check_tells({look.concept: (look.pairs, look.tells) for look in looks}, "answers", "warning")
        findings += check_tells({look.concept: (look.pairs, look.prompt_tells) for look in looks}, "prompts", "note")
    if against is not None:
        findings += check_overlap(pairs, read_all(against).pairs, against)
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    return Checked(source, loaded.rows, len(pairs), loaded.skipped, looks, tuple(findings))


def _looks(pairs: tuple[Placed, ...], tokens: list[TokenisedPair | None] | None) -> tuple[ConceptLook, ...]:
    ids = None if tokens is None else dict(zip((placed.where for placed in pairs), tokens, strict=True))
    looks = []
    for concept, group in by_concept(pairs).items():
        own = None if ids is None else [ids[placed.where] for placed in group]
        asked = [folded(said(pair.negative_input)) in folded(said(pair.positive_input)) for _, pair in group]
        answers, prompts = measure_tells(group)
        share = sum(asked) / len(group)
        looks.append(
            ConceptLook(concept, len(group), share, measure_lengths(group, own), openings(group), answers, prompts)
        )
    return tuple(looks)
