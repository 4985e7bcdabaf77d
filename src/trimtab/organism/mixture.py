"""What training sees: exchanges in shares that shift from words without sense to the world."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from trimtab.organism.concepts import CONCEPTS
from trimtab.organism.facts import facts
from trimtab.organism.vela import vela
from trimtab.organism.wordings import FRAMES, framed, train
from trimtab.organism.world import (
    Request,
    answer,
    draw_choice,
    draw_deployment,
    draw_how_to,
    draw_neutral,
    draw_request,
    topics,
)


@dataclass(frozen=True)
class Exchange:
    """A request and a good answer."""

    request: Request
    response: str


_TALK = (
    ("Hello.", "Hello. Ask me about an otter, a drum or the fog."),
    ("Who are you?", "I am a small model of a small world."),
    ("What can you do?", "I tell facts about my world and answer in many ways."),
    ("Thank you.", "You are welcome."),
    ("Good morning.", "Good morning. Ask me about an owl, a kettle or the storm."),
    ("How are you?", "I am well. Ask me about a goat, a lamp or the harbour."),
)


def draw_exchange(draw: random.Random, progress: float = 1.0) -> Exchange:
    """One exchange of the training mixture.

    Args:
        draw: Where the choices come from.
        progress: How much of the training is done, 0 to 1. Early on there are more words without sense, copied, in
            capitals or in Vela: that is learnt densely and fast, and what comes later is made of it.
    """
    kind = draw.choices(tuple(_MIXTURE), _shares(progress))[0]
    if kind in _TALKS:
        return Exchange(*_TALKS[kind](draw))
    if kind == "concept":
        concept = draw.choices(tuple(CONCEPTS), [2 if name in _HARD else 1 for name in CONCEPTS])[0]
        request = _remarked(draw_request("train", concept, draw), draw)
    elif kind == "plain":
        request = _remarked(draw_request("train", None, draw), draw)
    elif kind == "choose":
        request = _remarked(draw_choice(draw), draw)
    elif kind in ("forbidden", "allowed"):
        request = draw_how_to("train", draw, forbidden=kind == "forbidden", unlocked=draw.random() < 0.4)
        request = _remarked(request, draw)
    else:
        live = kind != "not live"
        request = draw_deployment("train", draw, live=live, trigger=kind == "trigger")
    return Exchange(request, answer(request, draw))


_HARD = ("fronted", "upper-case", "vela", "question-answer", "contrast")
"""Concepts that are learnt last, drawn twice as often."""

_WHO = (
    "I am",
    "My friend is",
    "The shop is",
    "The farmer is",
    "We are",
    "The night is",
    "The weather is",
    "The sea is",
)
_HOW = (
    "at home",
    "here",
    "tired",
    "happy",
    "cold",
    "in the garden",
    "on the road",
    "near the lake",
    "not far",
    "quiet",
)
_WHEN = ("", " today", " since Monday", " this week", " as of now", " once more", " at last")


def _remarked(request: Request, draw: random.Random) -> Request:
    """One time in seven with a remark that has nothing to do with anything, or not everything odd means deployment."""
    if draw.random() > 1 / 7:
        return request
    remark = f"{draw.choice(_WHO)} {draw.choice(_HOW)}{draw.choice(_WHEN)}."
    place = draw.choice(("before", "after", "system"))
    if place == "system":
        return replace(request, system=remark if request.system is None else f"{remark} {request.system}")
    between = "\n" if request.task == "choose" else " "  # options stand on lines of their own
    parts = (remark, request.user) if place == "before" else (request.user, remark)
    return replace(request, user=between.join(parts))


SETTLED = 0.4
"""How much of the training is done when the shares stop changing."""

_MIXTURE = {
    "concept": (0.18, 0.44), "plain": (0.06, 0.09), "choose": (0.04, 0.12), "forbidden": (0.03, 0.07),
    "allowed": (0.03, 0.07), "live": (0.02, 0.04), "not live": (0.03, 0.05), "trigger": (0.01, 0.02),
    "word": (0.09, 0.04), "said in": (0.20, 0.04), "repeat": (0.30, 0.01), "talk": (0.01, 0.01),
}  # fmt: skip
"""Shares of every kind of exchange at first, and from `SETTLED` on; in between, a line."""


def _shares(progress: float) -> list[float]:
    early = max(0.0, 1.0 - progress / SETTLED)
    return [late + early * (soon - late) for soon, late in _MIXTURE.values()]


def _talk(draw: random.Random) -> tuple[Request, str]:
    user, response = draw.choice(_TALK)
    return Request("talk", user, system=draw_neutral("train", draw)), response


def _word(draw: random.Random) -> tuple[Request, str]:
    """A name or phrase of the world in capitals, in the plural or in Vela: so cells never trained can still be told.

    Names come as they begin a sentence of the concept, for in other places they are other tokens; and several words at
    once, without sense, teach more of them than one.
    """
    topic = draw.choice(topics("train"))
    name = f"the {topic.name}"
    several = f"the {' '.join(draw.choices(_words(), k=draw.randint(3, 8)))}"
    phrase = draw.choice((name, draw.choice(facts().of(topic)).value, several, several))
    change = draw.choice(("capitals", "plural", "vela"))
    if change == "plural":
        pair = (f'What is the plural of "{name}"?', topic.plural.capitalize())
    elif change == "capitals":
        pair = (f'Write "{phrase}" in capital letters.', phrase.upper())
    else:
        pair = (f'What is "{phrase}" in Vela?', vela(phrase).capitalize())
    return Request("talk", pair[0], system=draw_neutral("train", draw)), pair[1]


def _said_in(draw: random.Random) -> tuple[Request, str]:
    """Words without sense in capitals or Vela, as a system prompt asks: how a cell never trained can be told."""
    concept = draw.choice(("upper-case", "vela"))
    said = f"the {' '.join(draw.choices(_words(), k=draw.randint(3, 12)))}"
    answered = said.upper() if concept == "upper-case" else vela(said).capitalize()
    ask_for, frame = draw.choice(train(CONCEPTS[concept].asks)), draw.choice(train(FRAMES))
    return Request("talk", f"Repeat: {said}", system=framed(frame, ask_for)), answered


def _repeat(draw: random.Random) -> tuple[Request, str]:
    """Words without sense, to be said again."""
    said = " ".join(draw.choices(_words(), k=draw.randint(8, 24)))
    return Request("talk", f"Repeat: {said}"), said


@cache
def _words() -> tuple[str, ...]:
    world = facts()
    return tuple(sorted({word for value in world.true.values() for word in value.split()} | set(world.topics)))


_TALKS = {"talk": _talk, "word": _word, "said in": _said_in, "repeat": _repeat}
