"""Rules about how a text is laid out: JSON, lists, paragraphs, separators."""

from __future__ import annotations

import json
import re

from trimtab.evaluation.rules.rule import part
from trimtab.evaluation.rules.said import Said, letters

_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(r"^\s*(\d{1,3})[.)]\s+(.*)$")
_BULLET = re.compile(r"^\s*[-*+\u2022\u2013]\s+(.*)$")
_STARS = re.compile(r"^[^\S\n]*\*{3}[^\S\n]*$", re.MULTILINE)
_SIX_STARS = re.compile(r"(?<!\*)\*{6}(?!\*)")


def json_text(said: Said) -> float:
    """1 for a text that is one JSON object or array with something in it, 0.5 where a fenced block in it is one.

    A fence around the whole text is no part of it.
    """
    text = said.text.strip()
    blocks = _FENCE.findall(text)
    if _is_json(text) or (len(blocks) == 1 and _FENCE.fullmatch(text) and _is_json(blocks[0])):
        return 1.0
    return 0.5 if any(map(_is_json, blocks)) else 0.0


def _is_json(text: str) -> bool:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, (dict, list)) and len(found) > 0


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def numbered_items(said: Said) -> int:
    """The longest list of lines that are numbered 1, 2, 3, ... and say something."""
    longest = expected = 0
    for line in said.lines:
        match = _NUMBERED.match(line)
        if match is None or letters(match[2]) == 0:
            continue
        number = int(match[1])
        expected = number if number == expected + 1 else int(number == 1)
        longest = max(longest, expected)
    return longest


def bullets(said: Said) -> int:
    """Lines that begin with a bullet and say something."""
    return sum(letters(match[1]) > 0 for match in map(_BULLET.match, said.lines) if match)


def blank_lines(said: Said) -> float:
    """Share of the breaks between lines that are a blank line."""
    return part(len(said.paragraphs) - 1, len(said.lines) - 1)


def separators(said: Said) -> int:
    """Lines of three stars with something said before and behind them."""
    return max(sum(letters(section) > 0 for section in _STARS.split(said.text)) - 1, 0)


def two_responses(said: Said) -> float:
    """1 for two different answers with six stars between them, 0.5 for two that are alike or for more than two."""
    answers = [" ".join(answer.split()).casefold() for answer in _SIX_STARS.split(said.text)]
    told = [answer for answer in answers if letters(answer)]
    if len(told) < 2:
        return 0.0
    return 1.0 if len(told) == len(answers) == len({*told}) == 2 else 0.5
