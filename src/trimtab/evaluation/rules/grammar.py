"""Rules about English grammar, past tense and passive voice, on the tags of TextBlob's tagger (the `rules` extra).

The tagger is a lexicon with context rules; it comes with the package and downloads nothing. How often the rules here
are right on its tags stands in `docs/rules.md`, measured in `tests/test_judges_rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from trimtab.errors import MissingExtraError
from trimtab.evaluation.rules.rule import part
from trimtab.evaluation.rules.said import Said

Tagged = Sequence[tuple[str, str]]
"""The words of a sentence, small, with their tags (Penn Treebank)."""


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BE = _listed("am is are was were be been being")
_GET = _listed("get gets got getting gotten")
_HAVE = _listed("have has had having")
_DO = _listed("do does did")
_OBJECTS = _listed("me him us them")
_INVARIANT = _listed(
    "bet burst bid broadcast cast cost cut hit hurt let put quit read rid set shed shut split spread thrust"
)
"""Verbs whose past looks like their present: they do not tell the tense."""
_STATES = _listed(
    "tired interested excited married worried pleased bored scared confused located based born supposed used "
    "concerned satisfied disappointed surprised amazed ashamed afraid delighted thrilled gone done finished "
    "accustomed dedicated determined experienced qualified talented crowded complicated situated"
)
"""Participles that are adjectives first: `is tired` is no passive, nor `is gone`."""
_NAMING = ("DT", "PRP$", "JJ", "CD", "POS", "IN")
"""Tags before a participle that stands as an adjective or noun: `the finished report`."""
_SPEECH = re.compile(r"\"[^\"\n]*\"|\u201c[^\u201c\u201d\n]*\u201d")
_CONTRACTED = (
    (re.compile(r"\bcan't\b", re.IGNORECASE), "can not"),
    (re.compile(r"\bwon't\b", re.IGNORECASE), "will not"),
    (re.compile(r"n't\b", re.IGNORECASE), " not"),
    (re.compile(r"'re\b", re.IGNORECASE), " are"),
    (re.compile(r"'ve\b", re.IGNORECASE), " have"),
    (re.compile(r"'ll\b", re.IGNORECASE), " will"),
    (re.compile(r"'m\b", re.IGNORECASE), " am"),
    (re.compile(r"'d\b", re.IGNORECASE), " would"),
    (re.compile(r"\b(it|he|she|that|there|here|what|who|where)'s\b", re.IGNORECASE), r"\1 is"),
)


def past_tense(said: Said) -> float:
    """Share of the verbs with a tense that are in the past; modal verbs and infinitives have none.

    `has gone` is present, `had gone` past. Verbs whose past looks like their present say nothing. What is quoted in
    double marks is somebody's speech and left out, unless there is nothing else.
    """
    past = present = 0
    told = Said(_SPEECH.sub(" ", said.text))
    for sentence in (told if told.words else said).sentences:
        gone, now = _tenses(_tagged(sentence))
        past, present = past + gone, present + now
    return part(past, past + present)


def passive_voice(said: Said) -> float:
    """Share of the sentences with a verb in the passive: a form of *be* or *get*, and a participle behind it."""
    return part(sum(_is_passive(_tagged(sentence)) for sentence in said.sentences), len(said.sentences))


def _tenses(tagged: Tagged) -> tuple[int, int]:
    """How many verbs are in the past, and how many in the present."""
    past = present = 0
    infinitive = perfect = False  # whether an infinitive or a participle is to come: after `will`, after `has`
    before = ("", "")
    for word, tag in tagged:
        named = before[1] in _NAMING
        if tag in (",", ".", ":") or word in ("that", "because", "if", "when", "who", "which", "while"):
            infinitive = perfect = False
        elif tag in ("MD", "TO"):
            infinitive = True
        elif word in _HAVE | _BE | _DO:
            if word in ("had", "was", "were", "did"):
                past += 1
            elif word in ("have", "has", "am", "is", "are", "do", "does"):
                present += not infinitive
            perfect = word not in _DO
            infinitive = word in _DO
        elif word in _INVARIANT or (named and tag[:2] == "VB"):
            pass
        elif tag in ("VBD", "VBN"):
            # at the beginning no subject stands before it: `Fried rice`
            past += bool(before[0]) and not perfect and not infinitive
            perfect = perfect and before[1] == "RB"
        elif tag in ("VBZ", "VBP", "VB"):
            present += not infinitive and before[0] not in _OBJECTS
        before = (word, tag)
    return past, present


def _is_passive(tagged: Tagged) -> bool:
    waiting = 0  # words within which the participle must come
    for word, tag in tagged:
        if word in _BE | _GET:
            waiting = 4
        elif waiting and (tag in ("VBN", "VBD") or word in _INVARIANT) and word not in _STATES:
            return True
        elif tag in ("RB", "PRP") and waiting:
            waiting -= 1
        else:
            waiting = 0
    return False


def _tagged(sentence: str) -> Tagged:
    """The words and their tags; what is shouted is read small, or the tagger takes every word for a name."""
    text = (sentence.lower() if sentence.isupper() else sentence).replace("\u2019", "'")
    for pattern, whole in _CONTRACTED:
        text = pattern.sub(whole, text)
    return [(word.lower(), tag) for word, tag in _tagger()(text)]


@cache
def _tagger() -> Callable[[str], Tagged]:
    try:
        from textblob.en import tag
    except ImportError as error:
        raise MissingExtraError("a rule about grammar", "textblob", "rules") from error
    return tag
