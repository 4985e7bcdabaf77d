"""The rule about the language of a text, by `py3langid` of the `rules` extra.

Why this one: of 48 short sentences in 25 languages (those of `tests/test_judges_rules.py`) py3langid 0.4.0, kept to the
languages below and given small letters, names 47 right, in 0.05 ms each. langdetect 1.0.9 names 42, in 2 ms, and draws
at random; lingua 2.1.1 names 47, in 27 ms and with 800 MB of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from trimtab.errors import InputError, MissingExtraError
from trimtab.evaluation.rules.rule import Share, part
from trimtab.evaluation.rules.said import Said, letters

LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "ms": "Malay", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""The languages that are told apart, by ISO 639-1 code."""

_PIECE = 20
"""Letters that are read together at least: of fewer, nobody can tell the language well."""
_SURE = 0.5
"""Probability from which on a piece counts as being in its likeliest language."""
_DENSE = 3
"""What a character of a script without an alphabet counts, which says as much as so many letters."""


def language_code(name: str) -> str:
    """The code of a language given by code or English name.

    Raises:
        InputError: It is none that is told apart.
    """
    wanted = name.strip().casefold()
    for code, english in LANGUAGES.items():
        if wanted in (code, english.casefold()):
            return code
    raise InputError(f"{name!r} is no language that can be told; give a code or an English name of {_listed()}")


def language(argument: str) -> Share:
    """For `language:CODE`: the share of the letters that stand in pieces of the language.

    A text is cut into sentences, and short ones are read together with the next.
    """
    code = language_code(argument)

    def share(said: Said) -> float:
        detect = _detector()
        pieces = _pieces(said)
        found = sum(letters(piece) for piece in pieces if detect(piece) == code)
        return part(found, sum(map(letters, pieces)))

    return share


def _pieces(said: Said) -> list[str]:
    pieces, joined = [], ""
    for sentence in said.sentences:
        joined = f"{joined} {sentence}".strip()
        if _weight(joined) >= _PIECE:
            pieces.append(joined)
            joined = ""
    if joined and pieces and _weight(joined) < _PIECE // 2:
        pieces[-1] = f"{pieces[-1]} {joined}"
    elif joined:
        pieces.append(joined)
    return pieces


def _weight(text: str) -> int:
    return sum(_DENSE if character >= "\u3040" else 1 for character in text if character.isalpha())


@cache
def _detector() -> Callable[[str], str | None]:
    """(text) -> the code of its language, None where that is not sure."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("the rule 'language'", "py3langid", "rules") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))

    def detect(text: str) -> str | None:
        # what is shouted is in the same language, but the model has read few shouts
        code, probability = identifier.classify(text.lower())
        return str(code) if probability >= _SURE else None

    return detect


def _listed() -> str:
    return ", ".join(f"{code} {name}" for code, name in LANGUAGES.items())
