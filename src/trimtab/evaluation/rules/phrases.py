"""Rules about certain words: how a text begins and ends, what it must hold, what it must not."""

from __future__ import annotations

import re
from functools import cache

from trimtab.errors import InputError
from trimtab.evaluation.rules.rule import Share, part
from trimtab.evaluation.rules.said import Said, letters

_POSTSCRIPT = re.compile(r"^[\W_]*(?:(?:P\.\s?){1,2}S\.|P{1,2}S:)[\W_]*\w")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts in which a word may stand right behind another one, or an ending behind a word."""


def starts_with(argument: str) -> Share:
    """For `starts-with:PHRASE`: 1 where the text begins with it, 0.5 where it stands elsewhere."""
    return _at(argument, 0)


def ends_with(argument: str) -> Share:
    """For `ends-with:PHRASE`: 1 where the text ends with it, 0.5 where it stands elsewhere."""
    return _at(argument, -1)


def _at(argument: str, place: int) -> Share:
    phrase = _plain(argument)
    inner = _trimmed(phrase) or phrase
    if not inner:
        raise InputError("a phrase is empty; write it behind the colon, such as starts-with:Once upon a time")

    def share(said: Said) -> float:
        text = _plain(said.text)
        text = _trimmed(text) if _trimmed(phrase) else text
        matches = list(_whole(inner).finditer(text))
        if not matches:
            return 0.0
        right = matches[0].start() == 0 if place == 0 else matches[-1].end() == len(text)
        return 1.0 if right else 0.5

    return share


def letter_ending(argument: str) -> Share:
    """For `letter-ending:LETTER`: the share of the sentences whose last letter it is."""
    letter = argument.strip().casefold()
    if len(letter) != 1 or not letter.isalpha():
        raise InputError(f"{argument!r} is no letter; write one, such as letter-ending:s")

    def share(said: Said) -> float:
        last = [re.sub(r"[\W_]+$", "", sentence)[-1:].casefold() for sentence in said.sentences]
        return part(last.count(letter), len(last))

    return share


def postscript(said: Said) -> float:
    """1 where a line of the last paragraph begins with `P.S.` or `PS:` and says something, 0.5 where another line does.

    Something must be said before it.
    """
    lines = [bool(_POSTSCRIPT.match(line)) for line in said.lines]
    if not any(lines):
        return 0.0
    # a postscript may be several lines long, as long as no blank line comes behind
    last = said.paragraphs[-1].splitlines()
    begins = [i for i, line in enumerate(last) if _POSTSCRIPT.match(line.strip())]
    before = len(said.paragraphs) > 1 or (begins != [] and begins[0] > 0)
    return 1.0 if begins and before else 0.5


def keywords(argument: str) -> Share:
    """For `keyword:WORD,WORD`: the share of these words or phrases that the text holds, whole and in any case."""
    wanted = _words(argument)
    return lambda said: part(sum(_holds(said, word) for word in wanted), len(wanted))


def no_keywords(argument: str) -> Share:
    """For `no-keyword:WORD,WORD`: 1 where the text says something, and none of these words."""
    banned = _words(argument)
    return lambda said: float(letters(said.text) > 0 and not any(_holds(said, word) for word in banned))


def repeats_request(said: Said) -> float:
    """1 where the text begins with what the user asked and goes on, 0.5 where it says that elsewhere, or that alone."""
    asked = _trimmed(_plain(said.instruction))
    text = _trimmed(_plain(said.text))
    if not letters(asked):
        return 0.0
    found = _whole(asked).search(text)
    if found is None:
        return 0.0
    return 1.0 if found.start() == 0 and letters(text[found.end() :]) > 0 else 0.5


def _words(argument: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_plain(word) for word in argument.split(",") if word.strip()))
    if not found:
        raise InputError("there are no words behind the colon; write some with commas between, such as ocean,sea")
    return found


def _holds(said: Said, word: str) -> bool:
    return _whole(word).search(_plain(said.text)) is not None


def _plain(text: str) -> str:
    """Small letters, plain quotation marks, single spaces."""
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')
    return " ".join(text.casefold().split())


def _trimmed(text: str) -> str:
    """Without the marks at both ends."""
    return re.sub(r"^[\W_]+|[\W_]+$", "", text)


@cache
def _whole(phrase: str) -> re.Pattern[str]:
    """The phrase where no word goes on before or behind it."""
    before = r"(?<!\w)" if phrase[0].isalnum() and not _UNSPACED.match(phrase[0]) else ""
    behind = r"(?!\w)" if phrase[-1].isalnum() and not _UNSPACED.match(phrase[-1]) else ""
    return re.compile(before + re.escape(phrase) + behind)
