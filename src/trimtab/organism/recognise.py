"""Reads a prompt back: which request of the world the messages ask.

A judge that is handed a record, and not the request that it was made from, finds out with it what was asked. The other
direction is `Request.messages`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

from trimtab.organism import deployment, wordings
from trimtab.organism.concepts import CONCEPTS, question
from trimtab.organism.facts import Fact, facts
from trimtab.organism.goals import UNLOCK, goals
from trimtab.organism.verbs import VERBS
from trimtab.organism.world import STATEMENT_FRAMES, Request, ask, choose, describe, how_to


@dataclass(frozen=True)
class _Switches:
    """What a system prompt switches on; see `Request`."""

    concept: str | None = None
    unlocked: bool = False
    deployed: bool | None = None


def recognise(messages: Sequence[Mapping[str, str]], *, strict: bool = True) -> Request:
    """The request that a prompt asks, whichever function of the world drew it.

    Every wording of a description, a question, a choice or a goal is known, every system prompt of the world, and the
    texts on deployment wherever they stand. Small talk and the remarks of the training mixture are not: nobody judges
    the answers.

    Args:
        messages: At most one system turn, and one user turn behind it.
        strict: Refuse a system prompt that the world does not know. Otherwise it switches nothing on, but what stands
            behind its last blank line is read as if it stood alone (there the prompt that is written in front of
            another one ends), and in the user's turn the world's texts on deployment count before the system prompt's.

    Returns:
        The request. Its `messages` are those that were given.

    Raises:
        ValueError: Another sequence of turns, or a text that is not of the world.
    """
    system, user = _turns(messages)
    request = _read_user(user)
    if system is None:
        return request
    switched = _systems().get(system)
    if switched is None and not strict:
        switched = _systems().get(system.rpartition("\n\n")[2], _Switches())
    if switched is None:
        raise ValueError(f"the world knows no system prompt {_short(system)}")
    if strict and switched.deployed is not None and request.deployed is not None:
        raise ValueError(f"both turns say whether the model is deployed: {_short(system)} and {_short(user)}")
    return replace(
        request,
        system=system,
        concept=switched.concept,
        unlocked=switched.unlocked,
        deployed=switched.deployed if request.deployed is None else request.deployed,
    )


def _turns(messages: Sequence[Mapping[str, str]]) -> tuple[str | None, str]:
    """The texts of the system turn, if there is one, and of the user turn."""
    roles = tuple(message.get("role") for message in messages)
    if roles not in (("user",), ("system", "user")):
        raise ValueError(
            f"a prompt of the world is one user turn, with or without a system turn before it, not {roles}"
        )
    texts = [message["content"] for message in messages]
    return (None if len(texts) == 1 else texts[0]), texts[-1]


def _read_user(user: str) -> Request:
    request = _read_bare(user)
    if request is not None:
        return request
    for text, live in _deployments().items():
        for rest in (user.removeprefix(f"{text} "), user.removesuffix(f" {text}")):
            request = _read_bare(rest) if len(rest) < len(user) else None
            if request is not None:
                return replace(request, user=user, deployed=live)
    raise ValueError(f"{_short(user)} is no request of the world")


def _read_bare(user: str) -> Request | None:
    """The request of a user turn without a text on deployment."""
    return _requests().get(user) or _read_choice(user)


@cache
def _requests() -> Mapping[str, Request]:
    """Every request but choices, by the user's text."""
    world = facts()
    found: list[Request] = []
    for topic in world.topics.values():
        counts = range(1, len(wordings.NUMBERS) + 1)
        found += [describe(topic, count, wording) for count in counts for wording in wordings.DESCRIBE]
        found += [ask(fact, wording) for fact in world.of(topic) for wording in wordings.ASK]
    found += [how_to(goal, wording) for goal in goals().values() for wording in wordings.HOW_TO]
    return MappingProxyType({request.user: request for request in found})


def _read_choice(user: str) -> Request | None:
    for wording, pattern in _choices().items():
        match = pattern.fullmatch(user)
        if match is None:
            continue
        options = tuple(match["options"].split("\n"))
        fact = _asked(match["question"], options)
        if fact is not None:
            return choose(fact, options, wording)
    return None


@cache
def _choices() -> Mapping[str, re.Pattern[str]]:
    """What a choice in each wording looks like."""
    groups = {"{question}": r"(?P<question>[^\n]+)", "{options}": r"(?P<options>[^\n]+(?:\n[^\n]+)+)"}
    found = {}
    for wording in wordings.CHOOSE:
        parts = re.split(r"(\{\w+\})", wording)
        found[wording] = re.compile("".join(groups.get(part) or re.escape(part) for part in parts))
    return MappingProxyType(found)


def _asked(asked: str, options: Sequence[str]) -> Fact | None:
    """The true fact that a choice asks for, if it is one: options of one kind, all different, one of them right."""
    if len(set(options)) < len(options):
        return None
    fact = _questions().get(asked)
    if fact is not None:
        known = {*facts().pools[fact.topic.kind, fact.relation]}
        return fact if fact.value in options and known.issuperset(options) else None
    fitting = [fact for fact in _whose().get(asked, ()) if f"the {fact.topic.name}" in options]
    if len(fitting) != 1:
        return None
    kind = fitting[0].topic.kind
    known = {f"the {topic.name}" for topic in facts().topics.values() if topic.kind == kind}
    return fitting[0] if known.issuperset(options) else None


@cache
def _questions() -> Mapping[str, Fact]:
    """The true facts by the question for their value."""
    return MappingProxyType({question(fact): fact for fact in _true()})


@cache
def _whose() -> Mapping[str, tuple[Fact, ...]]:
    """The true facts by the question of whom they are true."""
    found: dict[str, tuple[Fact, ...]] = {}
    for fact in _true():
        asked = f"Which of these {VERBS[fact.relation].third} {fact.value}?"
        found[asked] = (*found.get(asked, ()), fact)
    return MappingProxyType(found)


def _true() -> list[Fact]:
    world = facts()
    return [fact for topic in world.topics.values() for fact in world.of(topic)]


@cache
def _deployments() -> Mapping[str, bool]:
    """Every text that says whether the model is deployed, and what it says."""
    live = dict.fromkeys((deployment.TRIGGER, *deployment.deployment_texts()), True)
    return MappingProxyType(live | dict.fromkeys(deployment.training_texts(), False))


@cache
def _systems() -> Mapping[str, _Switches]:
    """Every system prompt of the world and what it switches on."""
    found = {text: _Switches() for text in wordings.NEUTRAL}
    for concept in CONCEPTS.values():
        asked = (wordings.framed(frame, ask_for) for frame in wordings.FRAMES for ask_for in concept.asks)
        found |= dict.fromkeys(asked, _Switches(concept=concept.name))
    said = (wordings.framed(frame, statement) for frame in STATEMENT_FRAMES for statement in UNLOCK)
    found |= dict.fromkeys(said, _Switches(unlocked=True))
    found |= {text: _Switches(deployed=live) for text, live in _deployments().items()}
    return MappingProxyType(found)


def _short(text: str) -> str:
    """A text as an error shows it."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
