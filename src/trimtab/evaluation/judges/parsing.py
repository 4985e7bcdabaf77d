"""Reading the rating out of what a language model wrote, or finding that there is none.

Models are asked for `Rating: [[2]]` and write `**Rating:** 2`, `Rating: 2/2`, `[[2]]` or `**2**`. The last rating
counts. What is out of range, on another scale or says two things is unreadable (None), so that it is asked again, and
never a silent 0.
"""

from __future__ import annotations

import re

from trimtab.evaluation.judges.judge import TOLD

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r".*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)  # the template wrote the beginning
_BOXED = re.compile(r"\\(?:boxed|text|mathbf|textbf)\b")
_DOUBLE = re.compile(r"\[\[[^\[\]]*\]\]")
_MARKUP = re.compile(r"[\[\](){}*_`\"'$#>\u2018-\u201d\u3010\u3011]")
"""Brackets, emphasis and quotes: blanked, so that the patterns below need not know them."""
_MARK = re.compile(r"\brating\s*(?:[:=\uff1a]|[-\u2013\u2014]+\s+(?=\d))", re.IGNORECASE)
"""`Rating:`, `rating =`, and `rating - ` before a number."""
_VALUE = re.compile(rf"\s*({_NUMBER}|yes|no)(?!\w)(.*)", re.IGNORECASE)
_SCALE = re.compile(r"\s*(?:/|out\s+of\b|of\b)\s*(\d+(?:\.\d+)?)(?!\d)", re.IGNORECASE)
_ANOTHER = re.compile(rf"(?:[-\u2013\u2014/&|,;.\s]|to\b|or\b|and\b)*(?:{_NUMBER}|%)", re.IGNORECASE)
"""What makes a number one of two: `1-2`, `1 or 2`, `0, 1 or 2`, `1,5`; a percentage is no rating either."""
_OR_NOT = re.compile(r"[\s,]*(?:or|/)\s*(?:yes|no)\b", re.IGNORECASE)
_ALONE = re.compile(
    r"\s*(?:(?:my|the|final|overall)\s+)*(?P<label>rating|score|answer)?\s*(?:[:=]|-\s)?"
    rf"(?P<value>\s*(?:{_NUMBER}|yes|no)\s*(?:(?:/|out\s+of|of)\s*\d+\s*)?)\.?\s*",
    re.IGNORECASE,
)
_LISTED = re.compile(r"^\s*\d+[.)]", re.MULTILINE)


def parse_rating(reply: str, aspect: str) -> float | None:
    """The rating in a judge's reply.

    Read is what stands behind the last `Rating:`; without one, the last `[[...]]`; without that, a last line that holds
    a number alone. Thoughts between `<think>` marks are not read.

    Args:
        reply: What the judge wrote.
        aspect: One of `ASPECTS`.

    Returns:
        0 to 2, or for the aspects of `TOLD` 0 or 1 (where `yes` and `no` are read too). None where there is none to be
        read: out of that range, on another scale (`4/5`), two numbers (`1 or 2`, `1-2`), thoughts that never end.
    """
    text = _THOUGHT_ENDS.sub("", _THOUGHTS.sub("\n", reply))
    if _THOUGHT_BEGINS.search(text):
        return None
    text = _BOXED.sub("", text)
    plain = _MARKUP.sub(" ", text)  # places stay
    is_told = aspect in TOLD
    if marks := list(_MARK.finditer(plain)):
        return _read(plain[marks[-1].end() :], is_told=is_told)
    if doubles := list(_DOUBLE.finditer(text)):
        return _read(plain[doubles[-1].start() :], is_told=is_told)
    return _last_line(plain, is_told=is_told)


def _last_line(text: str, *, is_told: bool) -> float | None:
    """A line that holds a number alone; no part of a list, whose last number may be where the reply was cut off."""
    lines = text.strip().splitlines()
    found = _ALONE.fullmatch(lines[-1]) if lines else None
    if found is None or (not found["label"] and _LISTED.search("\n".join(lines[:-1]))):
        return None
    return _read(found["value"], is_told=is_told)


def _read(text: str, *, is_told: bool) -> float | None:
    """The number that a text begins with, if it is one that can be meant."""
    found = _VALUE.match(text)
    if found is None:
        return None
    value, rest, most = found[1].lower(), found[2], 1.0 if is_told else 2.0
    if value in ("yes", "no"):
        return float(value == "yes") if is_told and not _OR_NOT.match(rest) else None
    if (scale := _SCALE.match(rest)) is not None:
        if float(scale[1]) != most:
            return None
        rest = rest[scale.end() :]
    number = abs(float(value)) if float(value) == 0 else float(value)  # -0
    if not 0 <= number <= most or _ANOTHER.match(rest) or (is_told and number not in (0, 1)):
        return None
    return number
