"""From a concept in words ("the response is in all capital letters") to the rule that checks it.

A description is searched for the phrases of `descriptions.py`. Exactly one rule must come out: a description that asks
for two things would be judged by half, and one that is *about* something ("terms related to dates") is no rule on form.
"""

from __future__ import annotations

import re

from trimtab.errors import InputError
from trimtab.evaluation.rules.descriptions import FORBIDDING, PHRASES
from trimtab.evaluation.rules.rule import Check
from trimtab.evaluation.rules.table import check_of, is_spec, usages

_ABOUT = re.compile(
    r"\b(?:related to|references? to|mentions? of|discussions? (?:of|about|on)|descriptions? of|concerning|"
    r"pertaining to|regarding|associated with|talks? about|in (?:the )?contexts? of|concepts? of)\b"
)
"""What a description of contents says."""
_NEGATED = re.compile(r"\b(?:no|not|never|without|avoid\w*|free of|lack\w*|exclud\w*|forbid\w*|cannot)\b|n't\b")
_NOT_MORE = re.compile(r"\b(?:no|not|never) (?:more|longer) than\b|\b(?:does |do |must |should )?not exceed\w*")
_NOT_LESS = re.compile(r"\b(?:no|not|never) (?:less|fewer|shorter) than\b")
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)")


def check_for(concept: str) -> Check:
    """The rule that checks a concept: a spec (`json`, `max-words:50`), or a description in words.

    Raises:
        InputError: No rule comes out of it, or several do.
    """
    if is_spec(concept):
        return check_of(concept)
    specs = _specs(concept)
    if len(specs) == 1:
        return check_of(specs[0])
    found = "no rule checks" if not specs else f"several rules ({', '.join(specs)}) check"
    raise InputError(f"{found} the concept {concept!r}; name one of {usages()}, or take another judge")


def _specs(concept: str) -> list[str]:
    """Every spec that a description asks for."""
    text = " ".join(_straight(concept).lower().split())
    text = _NOT_LESS.sub("at least", _NOT_MORE.sub("at most", text))
    # what is quoted may say `no` without forbidding anything
    shown = _QUOTED.sub('""', text)
    if _ABOUT.search(shown):
        return []
    phrases = FORBIDDING if _NEGATED.search(shown) else PHRASES
    return list(dict.fromkeys(spec(match) for pattern, spec in phrases if (match := pattern.search(text))))


def _straight(text: str) -> str:
    """With straight quotation marks."""
    return re.sub("[\u2018\u2019]", "'", re.sub("[\u201c\u201d\u00ab\u00bb]", '"', text))
