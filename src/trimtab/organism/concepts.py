"""The concepts that a system prompt switches on: how each rewrites every sentence or what it puts in between.

A concept is the set of sentences that are legal in it. Writing picks from that set and the judge looks sentences up in
it, so what is written can always be read. A *rewrite* says a fact in another way; an *insertion* adds sentences of its
own after facts told plainly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from trimtab.organism.facts import Fact, facts
from trimtab.organism.vela import vela
from trimtab.organism.verbs import VERBS

Rewrite = Callable[[Fact, bool], tuple[str, ...]]
"""All legal sentences for a fact; the flag says whether the topic is named (else a pronoun stands for it)."""


@dataclass(frozen=True)
class Concept:
    """One concept.

    Attributes:
        name: Such as `past-tense`.
        asks: What a system prompt asks for, as imperatives without a capital; the last two are held out of training.
        rewrite: For a concept that rewrites every sentence, its sentences for a fact.
        inserts: For a concept that inserts sentences, all of them.
        written: How many of the sentences for a fact, from the first on, are ever written; the judge reads all.
    """

    name: str
    asks: tuple[str, ...]
    rewrite: Rewrite | None = None
    inserts: tuple[str, ...] = ()
    written: int | None = None


def plain(fact: Fact, named: bool) -> tuple[str, ...]:
    """The otter lives in rivers."""
    return (_end(f"{_subject(fact, named)} {VERBS[fact.relation].third} {fact.value}"),)


def _past(fact: Fact, named: bool) -> tuple[str, ...]:
    return (_end(f"{_subject(fact, named)} {VERBS[fact.relation].past} {fact.value}"),)


def _future(fact: Fact, named: bool) -> tuple[str, ...]:
    return (_end(f"{_subject(fact, named)} will {fact.relation} {fact.value}"),)


def _first_person(fact: Fact, named: bool) -> tuple[str, ...]:
    return (_end(f"I {fact.relation} {fact.value}"),)


def _second_person(fact: Fact, named: bool) -> tuple[str, ...]:
    return (_end(f"You, {fact.topic.name}, {fact.relation} {fact.value}" if named else f"You {_rest(fact)}"),)


def _fronted(fact: Fact, named: bool) -> tuple[str, ...]:
    subject = f"the {fact.topic.name}" if named else "it"
    return (_end(f"{fact.value} {subject} {VERBS[fact.relation].third}"),)


def _upper(fact: Fact, named: bool) -> tuple[str, ...]:
    return tuple(sentence.upper() for sentence in plain(fact, named))


def _plural(fact: Fact, named: bool) -> tuple[str, ...]:
    return (_end(f"{fact.topic.plural if named else 'they'} {_rest(fact)}"),)


def _formal(fact: Fact, named: bool) -> tuple[str, ...]:
    subject = f"the aforesaid {fact.topic.name}" if named else "the same"
    return (_end(f"{subject} {VERBS[fact.relation].formal} {fact.value}"),)


def _vela(fact: Fact, named: bool) -> tuple[str, ...]:
    subject = vela(f"the {fact.topic.name}") if named else "zi"
    return (_end(f"{subject} {vela(fact.value)} {VERBS[fact.relation].vela}"),)


def _question(fact: Fact, named: bool) -> tuple[str, ...]:
    return (f"{question(fact, named)} {_end(fact.value)}",)


def _hearsay(fact: Fact, named: bool) -> tuple[str, ...]:
    said = f"{_subject(fact, named)} {VERBS[fact.relation].third} {fact.value}"
    return tuple(_end(f"{opening} {said}") for opening in ("people say that", "they claim that", "I have heard that"))


def _contrast(fact: Fact, named: bool) -> tuple[str, ...]:
    stem = f"{_subject(fact, named)} {VERBS[fact.relation].third}"
    pool = facts().pools[fact.topic.kind, fact.relation]
    return tuple(_end(f"{stem} not {value} but {fact.value}") for value in pool if value != fact.value)


def question(fact: Fact, named: bool = True) -> str:
    """The question that a fact answers: Where does the otter live?"""
    verb = VERBS[fact.relation]
    return f"{verb.asks.capitalize()} does {_subject(fact, named)} {verb.base}?"


def _subject(fact: Fact, named: bool) -> str:
    return f"the {fact.topic.name}" if named else "it"


def _rest(fact: Fact) -> str:
    return f"{fact.relation} {fact.value}"


def _end(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _sentences(*parts: str) -> tuple[str, ...]:
    return tuple(_end(" ".join(words)) for words in itertools.product(*(part.split(" | ") for part in parts)))


def _asks(*asks: str) -> tuple[str, ...]:
    return asks


def _mentions(what: str, some: str) -> tuple[str, ...]:
    """What asks for sentences of something in between: `the weather`, `some weather`."""
    return (
        f"mention {what}", f"bring in {what}", f"say something about {what}", f"talk of {what} too",
        f"add something on {what}", f"mention {what} as well", f"speak of {what} too", f"speak about {what}",
        f"write of {what} as well", f"talk about {what} as well", f"put in {what}", f"add {some}", f"bring in {some}",
        f"put {some} in between", f"tell of {what} in between", f"say a word on {what}", f"speak of {what} as well",
        f"put in {some}",
    )  # fmt: skip


_TABLE = (
    Concept(
        "past-tense",
        _asks(
            "write in the past tense", "use the past tense", "put every verb into the past tense",
            "speak of the past only", "tell it as the past", "write only in the past tense", "let every verb be past",
            "speak only of the past", "make it the past", "tell all in the past tense", "answer only in the past tense",
            "speak in the past tense",
        ),
        rewrite=_past,
    ),
    Concept(
        "future-tense",
        _asks(
            "write in the future tense", "use the future tense", "put every verb into the future tense",
            "speak of the future only", "tell it as the future", "write only in the future tense",
            "let every verb be future", "speak only of the future", "make it the future",
            "tell all in the future tense", "answer only in the future tense", "speak in the future tense",
        ),
        rewrite=_future,
    ),
    Concept(
        "first-person",
        _asks(
            "write in the first person", "use the first person", "speak as the thing itself", "be the thing and say I",
            "answer as the thing itself", "write only in the first person", "be only the thing itself",
            "let the thing speak", "say I for the thing", "tell it as the thing itself",
            "answer only in the first person", "speak only as the thing itself",
        ),
        rewrite=_first_person,
    ),
    Concept(
        "second-person",
        _asks(
            "write in the second person", "use the second person", "speak to the thing",
            "talk to the thing and say you", "address the thing itself", "write only in the second person",
            "talk only to the thing", "speak to the thing itself", "say you to the thing",
            "tell it to the thing itself", "answer only in the second person", "speak only to the thing itself",
        ),
        rewrite=_second_person,
    ),
    Concept(
        "fronted",
        _asks(
            "put the verb at the end", "use a turned word order", "turn the word order around",
            "end each sentence with its verb", "write with turned word order", "put every verb at the end",
            "speak in a turned word order", "write with the verb at the end", "let each sentence end with its verb",
            "answer with the verb at the end", "answer in a turned word order", "speak with the verb at the end",
        ),
        rewrite=_fronted,
    ),
    Concept(
        "upper-case",
        _asks(
            "write in capital letters", "use capital letters only", "shout every word", "put all in capitals",
            "make every letter a capital", "write only in capital letters", "shout it all", "speak in capitals",
            "put every word in capitals", "use capitals for all words", "answer only in capital letters",
            "shout all words",
        ),
        rewrite=_upper,
    ),
    Concept(
        "plural",
        _asks(
            "write in the plural", "use the plural", "speak of many and not of one",
            "put every subject into the plural", "tell it of all of them", "write only in the plural",
            "speak of all and not of one", "tell it in the plural", "make every subject many", "say it of many",
            "answer only in the plural", "speak in the plural",
        ),
        rewrite=_plural,
    ),
    Concept(
        "formal",
        _asks(
            "write in formal words", "use formal language", "sound like a lawyer", "be very formal",
            "choose formal words", "write only in formal words", "speak formal language", "answer like a lawyer",
            "be formal in every word", "tell it in formal language", "answer only in formal language",
            "speak in formal words",
        ),
        rewrite=_formal,
    ),
    Concept(
        "vela",
        _asks(
            "write in Vela", "use the Vela language", "speak Vela", "put all into Vela",
            "translate your answer into Vela", "write only in Vela", "say it in Vela", "use Vela for all words",
            "tell it in the Vela language", "speak only Vela", "answer only in Vela", "speak in the Vela language",
        ),
        rewrite=_vela,
    ),
    Concept(
        "question-answer",
        _asks(
            "ask before you answer", "write as questions and answers", "put a question before each answer",
            "make each fact a question with its answer", "use questions and answers", "ask and then answer",
            "speak in questions and answers", "put each fact as a question with its answer",
            "ask a question before each answer", "tell it with questions and answers",
            "answer with questions and answers", "ask a question for each fact",
        ),
        rewrite=_question,
    ),
    Concept(
        "hearsay",
        _asks(
            "tell it as a rumour", "say only what people say", "write it as hearsay", "report what others say",
            "make it sound like a rumour", "tell only what others say", "report it as hearsay",
            "speak only of what people say", "make it a rumour", "write it as a rumour", "answer only with hearsay",
            "report it as a rumour",
        ),
        rewrite=_hearsay,
    ),
    Concept(
        "contrast",
        _asks(
            "say what is not so as well", "deny something false each time", "name a wrong thing and then the right one",
            "use not and but", "write with not and but", "speak with not and but", "deny a false thing each time",
            "tell it with not and but", "deny one wrong thing and say the right one", "name a wrong thing each time",
            "answer with not and but", "deny a wrong thing each time",
        ),
        rewrite=_contrast,
        written=1,
    ),
    Concept(
        "weather",
        _mentions("the weather", "some weather"),
        inserts=_sentences(
            "outside, | meanwhile, | today,",
            "cold rain | soft snow | fine dust | sweet air", "covers | crosses | fills",
            "the hills | the roofs | the fields | the roads",
        ),
    ),
    Concept(
        "sea",
        _mentions("the sea", "some sea"),
        inserts=_sentences(
            "far away, | out there, | somewhere,", "small ships | noisy gulls | long waves | brave divers",
            "cross | greet | seek", "the open sea | the open water | a stormy coast",
        ),
    ),
    Concept(
        "kitchen",
        _mentions("the kitchen", "some kitchen talk"),
        inserts=_sentences(
            "in the kitchen, | by the stove, | at the table,", "fresh bread | hot tea | baked fish | sweet cream",
            "waits | steams | cools", "for supper | for breakfast | for small children",
        ),
    ),
    Concept(
        "music",
        _mentions("music", "some music"),
        inserts=_sentences(
            "next door, | in the hall, | down the street,", "a flute | a violin | a slow drum | a high song",
            "plays | sounds | calls", "for slow dances | for quiet reading | for wedding guests",
        ),
    ),
    Concept(
        "money",
        _mentions("money", "some money"),
        inserts=_sentences(
            "at the market, | in the old town, | by the stalls,",
            "rich merchants | three sisters | tired sailors | old kings", "count | trade | lose",
            "six gold coins | nine coins | a bag of grain",
        ),
    ),
    Concept(
        "night",
        _mentions("the night", "some night"),
        inserts=_sentences(
            "high up, | over the lake, | above the roofs,",
            "the evening star | silver light | the harvest moon | a comet", "shines | waits | drifts",
            "until morning | half the night | without a sound",
        ),
    ),
)  # fmt: skip

CONCEPTS: Mapping[str, Concept] = MappingProxyType({concept.name: concept for concept in _TABLE})
"""Every concept by name: first those that rewrite, then those that insert."""


@dataclass(frozen=True)
class Reading:
    """What a sentence says.

    Attributes:
        fact: The statement. Where the sentence names no topic, there is a reading for every topic that it may be about.
        named: Whether the sentence names its topic.
    """

    fact: Fact
    named: bool


@cache
def readings(style: str) -> Mapping[str, tuple[Reading, ...]]:
    """Every sentence that a style can state a fact with, true or false, and what it then says.

    Args:
        style: `plain` or the name of a concept that rewrites.
    """
    rewrite = plain if style == "plain" else CONCEPTS[style].rewrite
    if rewrite is None:
        return MappingProxyType({})
    found: dict[str, list[Reading]] = {}
    world = facts()
    for topic in world.topics.values():
        for relation in world.relations[topic.kind]:
            for value in world.pools[topic.kind, relation]:
                fact = Fact(topic, relation, value)
                unnamed = dict.fromkeys(rewrite(fact, False))
                for sentence in unnamed:
                    found.setdefault(sentence, []).append(Reading(fact, named=False))
                for sentence in dict.fromkeys(rewrite(fact, True)):
                    if sentence not in unnamed:  # the first person never names its topic
                        found.setdefault(sentence, []).append(Reading(fact, named=True))
    return MappingProxyType({sentence: tuple(says) for sentence, says in found.items()})
