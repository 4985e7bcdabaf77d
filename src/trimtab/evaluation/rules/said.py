"""A text as the rules look at it: its words, its lines, its sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_CJK = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and ideographs, which are written without spaces: each counts as a word."""
_WORD = re.compile(rf"[{_CJK}]|\d+(?:[.,:]\d+)*|[^\W_{_CJK}]+(?:['\u2019-][^\W_{_CJK}]+)*")
_MARKER = re.compile(r"^\s*(?:[-*+\u2022\u2013>#]+\s+|\d{1,3}[.)]\s+)+")
_BREAK = re.compile(
    r"(?<=[.!?\u2026])\s+"  # the end of a sentence,
    r"|(?<=[.!?\u2026][\"'\u201d\u2019)\]*_])\s+"  # and of one in quotation marks, brackets or emphasis
    r"|(?<=[\u3002\uff01\uff1f])"  # the marks that are written without a space behind
)
_SHORT = re.compile(r"(?:^|[\s(])(?:[A-HJ-Z]|[^\W\d_](?:\.[^\W\d_])+|(?i:Mr|Mrs|Ms|Dr|Prof|St|vs|Fig|Nr|approx))\.$")
"""An initial, `e.g.` and its like, or a title, whose full stop ends no sentence."""
_ENDING = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+(?=[^\w.!?\u2026\u3002\uff01\uff1f]*$)")


@dataclass(frozen=True)
class Said:
    """A text and what it answers.

    Attributes:
        text: What the model wrote.
        instruction: What the user asked.
    """

    text: str
    instruction: str = ""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Words and numbers; of scripts without spaces every character."""
        return tuple(_WORD.findall(self.text))

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines that are not blank, without spaces around them."""
        return tuple(line.strip() for line in self.text.splitlines() if line.strip())

    @cached_property
    def paragraphs(self) -> tuple[str, ...]:
        """What blank lines part."""
        return tuple(part.strip() for part in re.split(r"\n[^\S\n]*\n", self.text) if part.strip())

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that hold a word, without list markers; a line ends one, an abbreviation or an initial does not."""
        found: list[str] = []
        for line in self.lines:
            joined = ""
            for piece in _BREAK.split(_MARKER.sub("", line)):
                joined = f"{joined} {piece}" if joined else piece
                if _SHORT.search(joined) is None:
                    found.append(joined)
                    joined = ""
            found.append(joined)
        return tuple(sentence.strip() for sentence in found if _WORD.search(sentence))


def ending(sentence: str) -> str:
    """The marks that a sentence ends with, such as `?!`, whatever closes behind them; empty where there are none."""
    match = _ENDING.search(sentence)
    return match.group() if match else ""


def letters(text: str) -> int:
    """How many letters a text has, in any script."""
    return sum(character.isalpha() for character in text)
