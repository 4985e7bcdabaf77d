"""Words that give the class away: single n-grams that separate the sides, and answers that all open alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.data.check.findings import FEW, Finding, Level, Placed, found, named
from trimtab.data.check.texts import said

SEPARATES = 0.95
"""AUROC from which one n-gram is said to separate the classes."""

_LONGEST, _OPENING, _SHOWN = 2, 3, 5
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Tell:
    """An n-gram and how well its mere presence tells the classes apart.

    Attributes:
        ngram: One or two words or marks, as they are written.
        positive: Share of the texts with the concept that have it.
        negative: Share of those without the concept.
        auroc: Of its presence, 1 if it is in all texts of one side and in none of the other.
        side: On which side it is.
    """

    ngram: str
    positive: float
    negative: float
    auroc: float
    side: str


@dataclass(frozen=True)
class Openings:
    """How answers begin.

    Attributes:
        alike: Share of the pairs whose two answers begin with the same three words.
        positive: The most frequent first word of the answers with the concept.
        positive_share: How many of them begin with it.
        negative: The most frequent first word of the others.
        negative_share: How many of them begin with it.
        leak: Largest difference between the shares of the sides that begin with one word.
    """

    alike: float
    positive: str
    positive_share: float
    negative: str
    negative_share: float
    leak: float


def tells(positive: Sequence[str], negative: Sequence[str], most: int = _SHOWN) -> tuple[Tell, ...]:
    """The n-grams whose presence tells the sides apart best, best first, n up to 2.

    Args:
        positive: Texts with the concept, at least one.
        negative: Texts without it, at least one.
        most: How many.
    """
    high, low = _shares(positive), _shares(negative)
    scored = []
    for ngram in high.keys() | low.keys():
        gap = high.get(ngram, 0.0) - low.get(ngram, 0.0)
        scored.append((-abs(gap), len(ngram), ngram, gap))
    return tuple(
        Tell(
            " ".join(ngram),
            high.get(ngram, 0.0),
            low.get(ngram, 0.0),
            0.5 + abs(gap) / 2,
            "positive" if gap > 0 else "negative",
        )
        for _, _, ngram, gap in sorted(scored)[:most]
    )


def openings(pairs: Sequence[Placed]) -> Openings:
    """How the answers of one concept begin; at least one pair."""
    first = [[_TOKEN.findall(text) for text in (pair.positive_output, pair.negative_output)] for _, pair in pairs]
    alike = sum(one[:_OPENING] == other[:_OPENING] for one, other in first) / len(pairs)
    counts = [Counter(row[side][0] if row[side] else "" for row in first) for side in (0, 1)]
    (high, high_times), (low, low_times) = map(_most_frequent, counts)
    leak = max(abs(counts[0][word] - counts[1][word]) for word in counts[0] | counts[1]) / len(pairs)
    return Openings(alike, high, high_times / len(pairs), low, low_times / len(pairs), leak)


def measure_tells(pairs: Sequence[Placed]) -> tuple[tuple[Tell, ...], tuple[Tell, ...]]:
    """The best tells among the answers of one concept, and among its prompts."""
    return (
        tells([pair.positive_output for _, pair in pairs], [pair.negative_output for _, pair in pairs]),
        tells([said(pair.positive_input) for _, pair in pairs], [said(pair.negative_input) for _, pair in pairs]),
    )


def check_openings(measured: dict[str, tuple[int, Openings]]) -> Iterator[Finding]:
    """Whether the way in which answers open gives the class away.

    Args:
        measured: Concept -> number of its pairs, and how their answers open.
    """
    leaks, alike = [], []
    for concept, (pairs, opening) in measured.items():
        if pairs >= FEW and opening.leak > 2 * SEPARATES - 1:
            leaks.append(
                f"{named(concept)}{opening.positive!r} opens {opening.positive_share:.0%} of the positive, "
                f"{opening.negative!r} {opening.negative_share:.0%} of the negative answers"
            )
        elif pairs >= FEW and opening.alike > 0.5:
            alike.append(f"{named(concept)}{opening.alike:.0%} of the pairs")
    yield from found("warning", "openings", "the first word of an answer tells the class", leaks)
    yield from found("note", "openings", "both answers of most pairs begin with the same three words", alike)


def check_tells(measured: dict[str, tuple[int, Sequence[Tell]]], what: str, level: Level) -> Iterator[Finding]:
    """Whether a word or two alone give the class away.

    Args:
        measured: Concept -> number of its pairs, and the best tells.
        what: Among which texts: "answers".
        level: How bad that is.
    """
    places = []
    for concept, (pairs, best) in measured.items():
        sure = [tell for tell in best if tell.auroc >= SEPARATES]
        if pairs >= FEW and sure:
            words = ", ".join(f"{tell.ngram!r} ({tell.side}, {tell.auroc:.2f})" for tell in sure)
            places.append(f"{named(concept)}{words}")
    text = f"a word or two alone tell the classes of the {what} apart, and a vector may learn no more than them"
    yield from found(level, "tells", text, places)


def _most_frequent(counts: Counter[str]) -> tuple[str, int]:
    """A word and how often it stands there; of equally frequent ones the first in the alphabet."""
    return min(counts.items(), key=lambda each: (-each[1], each[0]))


def _shares(texts: Sequence[str]) -> dict[tuple[str, ...], float]:
    """N-gram -> share of the texts that have it."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = _TOKEN.findall(text)
        counts.update({tuple(words[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1)})
    return {ngram: count / len(texts) for ngram, count in counts.items()}
