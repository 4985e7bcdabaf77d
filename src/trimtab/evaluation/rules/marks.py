"""Rules about what stands in a text: emoji, hashtags, addresses, dates, numbers, quotations, marks at the ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from functools import cache
from urllib.parse import urlsplit

from trimtab.errors import MissingExtraError
from trimtab.evaluation.rules.rule import part
from trimtab.evaluation.rules.said import Said, ending, letters

_HASHTAG = re.compile(r"(?<![\w/&#.])#(\w+)")
_COLOUR = re.compile(r"(?:[0-9a-f]{3}){1,2}", re.IGNORECASE)
_URL = re.compile(r"(?<![\w@/.])(?:https?://|www\.)[^\s<>\"']+", re.IGNORECASE)
_EMAIL = re.compile(r"(?<![\w.+-])[\w+-][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])")
_DATE = re.compile(r"(?<![\d-])\d{4}-\d{2}-\d{2}(?![\d-])")
_QUOTED = re.compile(
    r'(?<!\w)"(?=\S)[^"\n]*[^\W_][^"\n]*(?<=\S)"(?!\w)'
    r"|\u201c[^\u201c\u201d\n]*[^\W_][^\u201c\u201d\n]*\u201d"
    r"|\u201e[^\u201e\u201c\u201d\n]*[^\W_][^\u201e\u201c\u201d\n]*[\u201c\u201d]"
    r"|\u00ab[^\u00ab\u00bb\n]*[^\W_][^\u00ab\u00bb\n]*\u00bb"
    r"|\u300c[^\u300c\u300d\n]*[^\W_][^\u300c\u300d\n]*\u300d"
)
_PAIRS = ('""', "\u201c\u201d", "\u201e\u201c", "\u201e\u201d", "\u00ab\u00bb", "\u300c\u300d")
_HIGHLIGHT = re.compile(r"(?<![\w*])(\*{1,2})(?![\s*])[^*\n]*[^\W_][^*\n]*(?<![\s*])\1(?![\w*])")
_COMMAS = ",\uff0c\u3001\u060c"
_TEXT_SYMBOLS = "\u2300"
"""Below this, a symbol such as the copyright sign is an emoji only where a selector behind it makes it one."""


def emoji(said: Said) -> int:
    """Emoji; one of several parts (a family, a flag) is one."""
    listed, qualified = _emoji_data()
    return sum(text in qualified or text >= _TEXT_SYMBOLS for text in listed(said.text))


@cache
def _emoji_data() -> tuple[Callable[[str], list[str]], frozenset[str]]:
    """(text) -> its emoji, and those that every reader shows in colour."""
    try:
        from emoji import EMOJI_DATA, STATUS, emoji_list
    except ImportError as error:
        raise MissingExtraError("the rule 'emoji'", "emoji", "rules") from error
    qualified = frozenset(text for text, data in EMOJI_DATA.items() if data["status"] == STATUS["fully_qualified"])
    return (lambda text: [found["emoji"] for found in emoji_list(text)]), qualified


def hashtags(said: Said) -> int:
    """`#word`s: no headings, numbers (`#1`), colours (`#00ff00`) or ends of addresses."""
    return sum(
        any(character.isalpha() for character in tag)
        and not (_COLOUR.fullmatch(tag) and any(character.isdigit() for character in tag))
        for tag in _HASHTAG.findall(said.text)
    )


def urls(said: Said) -> int:
    """Web addresses: `http://`, `https://` or `www.`, with a host that has a domain."""
    return sum(map(_has_host, _URL.findall(said.text)))


def _has_host(url: str) -> bool:
    try:
        host = urlsplit(url if "//" in url else f"https://{url}").hostname or ""
    except ValueError:  # brackets that are no address
        return False
    return re.fullmatch(r"(?:[\w-]+\.)+[^\W\d_]{2,}", host.rstrip(".,;:!?)]")) is not None


def emails(said: Said) -> int:
    """E-mail addresses."""
    return len(_EMAIL.findall(said.text))


def phones(said: Said) -> int:
    """Telephone numbers that could be dialled, international or as in the United States."""
    try:
        from phonenumbers import Leniency, PhoneNumberMatcher
    except ImportError as error:
        raise MissingExtraError("the rule 'phone'", "phonenumbers", "rules") from error
    # invented numbers (555) are possible and not valid
    return sum(1 for _ in PhoneNumberMatcher(said.text, "US", leniency=Leniency.POSSIBLE))


def iso_dates(said: Said) -> int:
    """Dates of the calendar written as 2024-02-29."""
    return sum(map(_is_date, _DATE.findall(said.text)))


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def quotations(said: Said) -> int:
    """Words or phrases in double quotation marks of any script; apostrophes and inches are none."""
    return sum(1 for _ in _QUOTED.finditer(said.text))


def in_quotes(said: Said) -> float:
    """Share of the letters in double quotation marks; all of them where one pair holds the whole text."""
    text = said.text.strip()
    for opening, closing in _PAIRS:
        inner = text[1:-1]
        if len(text) > 2 and text[0] == opening and text[-1] == closing and not {opening, closing} & {*inner}:
            return float(letters(inner) > 0)
    return part(sum(letters(match.group()) for match in _QUOTED.finditer(text)), letters(text))


def highlights(said: Said) -> int:
    """Words or phrases between stars, one or two on each side."""
    return sum(1 for _ in _HIGHLIGHT.finditer(said.text))


def exclamations(said: Said) -> float:
    """Share of the sentences that end with an exclamation mark."""
    return part(sum("!" in _marks(sentence) for sentence in said.sentences), len(said.sentences))


def questions(said: Said) -> float:
    """Share of the sentences that end with a question mark."""
    return part(sum("?" in _marks(sentence) for sentence in said.sentences), len(said.sentences))


def _marks(sentence: str) -> str:
    """The marks at the end, those of wide scripts as the others."""
    return ending(sentence).replace("\uff01", "!").replace("\uff1f", "?")


def no_commas(said: Said) -> float:
    """Share of the sentences without a comma; commas in numbers count too."""
    free = sum(not any(comma in sentence for comma in _COMMAS) for sentence in said.sentences)
    return part(free, len(said.sentences))
