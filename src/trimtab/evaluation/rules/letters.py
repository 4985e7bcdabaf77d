"""Rules about letters: upper and lower case, capitals of a title."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.evaluation.rules.rule import part
from trimtab.evaluation.rules.said import Said

_LEFT_SMALL = "a an the and but or nor for so yet as at by if in of off on per to up via vs from into with over than"
_SMALL = frozenset(_LEFT_SMALL.split())
"""Words that a title may leave small."""


def upper_case(said: Said) -> float:
    """Share of the letters with case that stand in words all in capitals."""
    return _in_words(said, str.isupper)


def lower_case(said: Said) -> float:
    """Share of the letters with case that stand in words all in small letters."""
    return _in_words(said, str.islower)


def title_case(said: Said) -> float:
    """Share of the words that begin with a capital and go on small.

    Small words (`of`, `the`) may be small, except at the beginning of a line, so they do not count elsewhere. A word
    all in capitals may be an acronym and says nothing.
    """
    right = counted = 0
    for line in said.lines:
        for place, word in enumerate(Said(line).words):
            acronym = len(word) > 1 and word.isupper()
            if acronym or not _cased(word) or (place > 0 and word.lower() in _SMALL):
                continue
            counted += 1
            right += word[0].isupper()
    return part(right, counted)


def _in_words(said: Said, keeps: Callable[[str], bool]) -> float:
    return part(
        sum(_cased(word) for word in said.words if keeps(word)),
        sum(_cased(word) for word in said.words),
    )


def _cased(word: str) -> int:
    """Letters of a word that can be large or small."""
    return sum(character.lower() != character.upper() for character in word)
