"""What a rule is called in words: phrases of a description, in small letters, and the specs they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable

from trimtab.evaluation.rules.language import LANGUAGES

Phrase = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]
"""What is searched for, and from what is found to the spec."""

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_N = rf"(?P<n>\d{{1,9}}|{'|'.join(_NUMBERS[1:])})"
_HAS = (
    r"\b(?:includ\w+|contain\w*|use|uses|using|add\w*|with|has|have|having|gives?|giving|provid\w+|cites?|citing|"
    r"inserts?|puts?|full of|featur\w+|present\w*|organi[sz]ed as|structured as|format\w* as|in|as|is|of)"
)
_SOME = (
    rf"(?: (?:(?:at least|a minimum of) {_N}|(?<!at least )(?<!a minimum of )(?P<n2>\d{{1,9}}|{'|'.join(_NUMBERS[1:])})"
    r"|at least|a|an|some|many|several|one or more|the|its?|all|every|each|only|valid|relevant))*"
)
_QUOTED = r"(?:\"[^\"]+\"|'[^']+')"
_QUOTE = r"(?:\"(?P<double>[^\"]+)\"|'(?P<single>.+?)'(?!\w))"
_LIST = rf"(?P<words>{_QUOTED}(?:(?:,? and|,? or|,) {_QUOTED})*)"


def number(text: str) -> int:
    """A number in digits or, up to ten, in words."""
    return int(text) if text.isdigit() else _NUMBERS.index(text)


def _is(name: str, *phrases: str) -> Phrase:
    return re.compile("|".join(rf"\b(?:{phrase})" for phrase in phrases)), lambda _: name


def _has(name: str, *things: str) -> Phrase:
    """For `contains three hashtags`, `with an emoji`: the rule with the number, where there is one."""

    def spec(match: re.Match[str]) -> str:
        found = match["n"] or match["n2"]
        return name if found is None else f"{name}:{number(found)}"

    return re.compile(rf"{_HAS}{_SOME} (?:{'|'.join(things)})(?!\w)"), spec


def _quoting(name: str, *verbs: str) -> Phrase:
    """For `starts with the phrase "..."`."""
    pattern = re.compile(rf"\b(?:{'|'.join(verbs)}) with (?:the )?(?:exact )?(?:words? |phrase |sentence )?{_QUOTE}")
    return pattern, lambda match: f"{name}:{match['double'] or match['single']}"


def _listing(name: str, *openings: str) -> Phrase:
    """For `contains the words "..." and "..."`."""
    pattern = re.compile(rf"\b(?:{'|'.join(openings)}):? {_LIST}")
    return pattern, lambda match: f"{name}:{','.join(word[1:-1] for word in re.findall(_QUOTED, match['words']))}"


def _bounded(name: str, unit: str, *bounds: str, more: int = 0) -> Phrase:
    """For `at most 50 words`."""
    pattern = re.compile(rf"\b(?:{'|'.join(bounds)}) {_N}[ -]{unit}\b")
    return pattern, lambda match: f"{name}:{max(number(match['n']) + more, 1)}"


def _lengths(kind: str, unit: str) -> tuple[Phrase, ...]:
    return (
        _bounded(f"max-{kind}", unit, "at most", "up to", "within", "a maximum of", "limited to", "a limit of"),
        _bounded(f"max-{kind}", unit, "fewer than", "less than", "under", "below", "shorter than", more=-1),
        _bounded(f"min-{kind}", unit, "at least", "a minimum of"),
        _bounded(f"min-{kind}", unit, "more than", "over", "longer than", more=1),
    )


_ONLY = "(?:all|only|entirely|fully|just|in|use|uses)(?: in| only)?(?: all)?"
_EXACTLY = ("exactly", "precisely", "consists? of", "consisting of", "(?:is|are) written in")

PHRASES: tuple[Phrase, ...] = (
    _is(
        "upper-case", r"all[- ]caps\b", rf"{_ONLY} capital letters", rf"{_ONLY} capitals\b", rf"{_ONLY} block letters",
        rf"{_ONLY} upper[- ]?case", "capital letters only",
    ),
    _is("lower-case", rf"{_ONLY} lower[- ]?case", rf"{_ONLY} small letters", "lower[- ]?case letters only"),
    _is("title-case", "title[- ]case", r"(?:each|every) word (?:is capitali[sz]ed|(?:begins|starts) with a capital)"),
    (
        re.compile(
            r"\b(?:in|into|only|uses?|speaks?|entirely) (?:the )?"
            rf"(?P<language>{'|'.join(name.lower() for name in LANGUAGES.values())})(?= language| only|[.,;]|$)"
        ),
        lambda match: f"language:{match['language']}",
    ),
    _is("past-tense", "past tense"),
    _is("passive-voice", "passive voice", "in the passive"),
    _is(
        "exclamation",
        "(?:end|ends|ending|full of|use|uses|using|with|contains?|includes?)"
        "(?: (?:in|with|an?|many|only|each|every|sentences?))*"
        " exclamation (?:marks?|points?)",
    ),
    _is("questions-only", "(?:only|only of|entirely of|consists? of) questions", "every sentence is a question"),
    _has("emoji", "emojis?", "emoticons?"),
    _has("hashtag", "hash ?tags?"),
    _has("url", "urls?(?: citations?)?", "web addresses", "(?:hyper)?links?", "citations? with urls?"),
    _has("email", "e-?mail address(?:es)?", "e-?mails?"),
    _has("phone", "(?:tele)?phone numbers?"),
    _has("iso-date", "iso(?: 8601)?(?:[- ]format(?:ted)?)? dates?", "dates? in (?:the )?(?:iso|yyyy-mm-dd)"),
    _has("quoted-words", "quoted (?:words?|phrases?)", "words? in (?:double )?(?:quotes|quotation marks)"),
    _is("in-quotes", "(?:wrapped|enclosed|entirely) (?:in|with|within|inside) (?:double )?(?:quotes|quotation marks)"),
    _has("highlights", "highlighted (?:sections?|words?|phrases?|parts?)"),
    _quoting("starts-with", "starts?", "begins?", "opens?", "starting", "beginning"),
    _quoting("ends-with", "ends?", "closes?", "finish(?:es)?", "concludes?", "ending"),
    (
        re.compile(r"\b(?:ends?|ending) (?:in|with) the letter [\"']?(?P<letter>[^\W\d_])\b"),
        lambda match: f"letter-ending:{match['letter']}",
    ),
    _is("postscript", "postscript", r"(?:with|has|have|adds?|includes?) (?:a )?p\.\s?s\."),
    _has("json", "json(?: format| object)?", "(?:valid|a single) json"),
    _has("numbered-list", "(?:numbered|ordered|enumerated) lists?"),
    _has("bullet-list", "bullet(?:ed)?[- ](?:points?|lists?)", "bullets"),
    _is(
        "blank-lines", "double line breaks?",
        "(?:separated|divided|parted) by (?:two line breaks|double line breaks|(?:a )?blank lines?)",
    ),
    _is("separators", r"(?:separated|divided|parted|separators?|dividers?)\b[^*]*(?<!\*)\*{3}(?!\*)"),
    _is("two-responses", "two (?:different |separate )?(?:responses|answers)"),
    _is("repeats-request", r"repeat(?:s|ing)? (?:back )?(?:the|its|your) (?:\w+'s )?(?:request|question|prompt)"),
    _listing(
        "keyword",
        "(?:includ(?:e|es|ing)|contains?|containing|uses?|mentions?|with) (?:all )?(?:of )?(?:the )?(?:following )?"
        "(?:key ?)?words?",
    ),
    *_lengths("words", "words?"),
    *_lengths("sentences", "sentences?"),
    _bounded("sentences", "sentences?", *_EXACTLY),
    _bounded("paragraphs", "paragraphs?", *_EXACTLY),
)  # fmt: skip
"""Of descriptions without a negation."""

_WITHOUT = r"(?:no|without|avoid\w*|not (?:use|contain|include|mention)\w*|free of)(?: (?:any|of|the|use|using))*"

FORBIDDING: tuple[Phrase, ...] = (
    _is("no-commas", rf"{_WITHOUT} commas?\b"),
    _is("upper-case", rf"{_WITHOUT} (?:lower[- ]?case|small) letters"),
    _is("lower-case", rf"{_WITHOUT} (?:upper[- ]?case|capital) letters"),
    _listing("no-keyword", rf"{_WITHOUT}(?: (?:following|key ?words?|words?))*"),
)
"""Of descriptions with a negation, in which the others would find what is forbidden."""
