"""All rules by name, and how one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from trimtab.errors import InputError
from trimtab.evaluation.rules import grammar, layout, lengths, letters, marks, phrases
from trimtab.evaluation.rules.language import language
from trimtab.evaluation.rules.rule import COUNTED, LENGTH, SENTENCES, THROUGHOUT, Check, Rule, at_least, fixed

_TABLE = (
    Rule("upper-case", "all in capital letters", fixed(letters.upper_case), THROUGHOUT),
    Rule("lower-case", "all in small letters", fixed(letters.lower_case), THROUGHOUT),
    Rule("title-case", "Every Word Begins With a Capital", fixed(letters.title_case), THROUGHOUT),
    Rule("language", "in a language, by code or English name", language, THROUGHOUT, "LANGUAGE"),
    Rule("past-tense", "English verbs in the past tense", fixed(grammar.past_tense), SENTENCES),
    Rule("passive-voice", "English sentences in the passive", fixed(grammar.passive_voice), SENTENCES),
    Rule("exclamation", "every sentence ends with an exclamation mark", fixed(marks.exclamations), SENTENCES),
    Rule("questions-only", "every sentence is a question", fixed(marks.questions), SENTENCES),
    Rule("no-commas", "no commas", fixed(marks.no_commas), COUNTED),
    Rule("letter-ending", "the last letter of every sentence is LETTER", phrases.letter_ending, SENTENCES, "LETTER"),
    Rule("emoji", "at least N emoji", at_least(marks.emoji), COUNTED, "N", "1"),
    Rule("hashtag", "at least N hashtags", at_least(marks.hashtags), COUNTED, "N", "1"),
    Rule("url", "at least N web addresses", at_least(marks.urls), COUNTED, "N", "1"),
    Rule("email", "at least N e-mail addresses", at_least(marks.emails), COUNTED, "N", "1"),
    Rule("phone", "at least N telephone numbers", at_least(marks.phones), COUNTED, "N", "1"),
    Rule("iso-date", "at least N dates such as 2024-02-29", at_least(marks.iso_dates), COUNTED, "N", "1"),
    Rule("quoted-words", "at least N quotations, in double marks", at_least(marks.quotations), COUNTED, "N", "1"),
    Rule("in-quotes", "all of it in double quotation marks", fixed(marks.in_quotes), THROUGHOUT),
    Rule("highlights", "at least N phrases between * or **", at_least(marks.highlights), COUNTED, "N", "1"),
    Rule("starts-with", "begins with PHRASE", phrases.starts_with, COUNTED, "PHRASE"),
    Rule("ends-with", "ends with PHRASE", phrases.ends_with, COUNTED, "PHRASE"),
    Rule("postscript", "ends with a postscript", fixed(phrases.postscript), COUNTED),
    Rule("keyword", "holds every one of the words", phrases.keywords, COUNTED, "WORD,WORD"),
    Rule("no-keyword", "holds none of the words", phrases.no_keywords, COUNTED, "WORD,WORD"),
    Rule("repeats-request", "repeats the request, then answers", fixed(phrases.repeats_request), COUNTED),
    Rule("json", "is JSON: an object or an array", fixed(layout.json_text), COUNTED),
    Rule("numbered-list", "a numbered list of at least N lines", at_least(layout.numbered_items), COUNTED, "N", "2"),
    Rule("bullet-list", "at least N bullets", at_least(layout.bullets), COUNTED, "N", "2"),
    Rule("blank-lines", "every line is parted from the next by a blank one", fixed(layout.blank_lines), THROUGHOUT),
    Rule("separators", "at least N lines of *** between parts", at_least(layout.separators), COUNTED, "N", "1"),
    Rule("two-responses", "two answers with ****** between them", fixed(layout.two_responses), COUNTED),
    Rule("max-words", "at most N words", lengths.at_most(lengths.words), LENGTH, "N"),
    Rule("min-words", "at least N words", at_least(lengths.words), LENGTH, "N"),
    Rule("sentences", "N sentences", lengths.exactly(lengths.sentences), LENGTH, "N"),
    Rule("max-sentences", "at most N sentences", lengths.at_most(lengths.sentences), LENGTH, "N"),
    Rule("min-sentences", "at least N sentences", at_least(lengths.sentences), LENGTH, "N"),
    Rule("paragraphs", "N paragraphs", lengths.exactly(lengths.paragraphs), LENGTH, "N"),
)

_BY_NAME: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in _TABLE})


def list_rules() -> tuple[Rule, ...]:
    """All rules, in the order in which they are shown."""
    return _TABLE


def is_spec(text: str) -> bool:
    """Whether a text begins as the spec of a rule does, with its name alone or before a colon."""
    return text.partition(":")[0].strip().lower() in _BY_NAME


def check_of(spec: str) -> Check:
    """A rule by its spec: `json`, `max-words:50`, `keyword:ocean,sea`, `starts-with:Once upon a time`.

    Raises:
        InputError: There is no such rule, its argument is missing or wrong, or it takes none.
    """
    name, colon, argument = (text.strip() for text in spec.partition(":"))
    rule = _BY_NAME.get(name.lower())
    if rule is None:
        raise InputError(f"there is no rule {name!r}{_meant(name)}; there are {usages()}")
    if rule.argument is None and colon:
        raise InputError(f"the rule {rule.name!r} takes nothing behind it; write {rule.usage}, not {spec!r}")
    if rule.argument is not None and not argument:
        if rule.default is None or colon:
            raise InputError(f"the rule {rule.name!r} needs {rule.argument} behind a colon; write {rule.usage}")
        argument = rule.default
    try:
        checker = rule.make(argument)
    except InputError as error:
        raise InputError(f"rule {spec!r}: {error}") from error
    return Check(rule, f"{rule.name}:{argument}" if rule.argument else rule.name, checker)


def usages() -> str:
    """How every rule is named, with commas between."""
    return ", ".join(rule.usage for rule in _TABLE)


def _meant(name: str) -> str:
    near = get_close_matches(name.lower(), _BY_NAME, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
