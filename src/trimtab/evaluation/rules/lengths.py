"""Rules about lengths: words, sentences, paragraphs."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.evaluation.rules.rule import Share, number
from trimtab.evaluation.rules.said import Said

_Count = Callable[[Said], int]


def words(said: Said) -> int:
    """Words and numbers; of scripts without spaces every character."""
    return len(said.words)


def sentences(said: Said) -> int:
    """Sentences."""
    return len(said.sentences)


def paragraphs(said: Said) -> int:
    """Paragraphs, which blank lines part, with words in them."""
    return sum(len(Said(paragraph).words) > 0 for paragraph in said.paragraphs)


def at_most(count: _Count) -> Callable[[str], Share]:
    """For `max-...:N`: 1 within the limit, behind it N over how many there are."""

    def make(argument: str) -> Share:
        limit = number(argument)

        def share(said: Said) -> float:
            found = count(said)
            return min(1.0, limit / found) if found else 0.0

        return share

    return make


def exactly(count: _Count) -> Callable[[str], Share]:
    """For an exact number N: the smaller of N and how many there are, over the larger."""

    def make(argument: str) -> Share:
        wanted = number(argument)

        def share(said: Said) -> float:
            found = count(said)
            return min(found, wanted) / max(found, wanted)

        return share

    return make
