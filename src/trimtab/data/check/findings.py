"""What a check has to say: one finding for each thing that is wrong or doubtful, with where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trimtab.data.pairs import ContrastPair

Level = Literal["error", "warning", "note"]
"""`error`: the pairs cannot be loaded; `warning`: look at it before a fit; `note`: good to know."""

FEW = 8
"""Pairs below which shares and effect sizes say nothing."""

SHOWN = 10
"""How many places a finding names."""


class Placed(NamedTuple):
    """A pair and where it stands, such as `line 3`."""

    where: str
    pair: ContrastPair


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        level: How bad it is.
        topic: What it is about, in one or two words.
        text: What it is, in one line.
        count: How many rows, pairs or concepts are concerned.
        places: The first of them.
    """

    level: Level
    topic: str
    text: str
    count: int = 0
    places: tuple[str, ...] = ()


def found(level: Level, topic: str, text: str, places: Sequence[str]) -> list[Finding]:
    """A finding on the places that it concerns; none where there is no place."""
    return [Finding(level, topic, text, len(places), tuple(places[:SHOWN]))] if places else []


def label(pair: ContrastPair) -> str:
    """The name of a pair's concept, or its number, or nothing."""
    if pair.concept is not None:
        return pair.concept
    return "" if pair.concept_id is None else str(pair.concept_id)


def by_concept(pairs: Sequence[Placed]) -> dict[str, list[Placed]]:
    """The pairs of each concept, in the order of their first."""
    groups: dict[str, list[Placed]] = {}
    for placed in pairs:
        groups.setdefault(label(placed.pair), []).append(placed)
    return groups


def named(concept: str) -> str:
    """A concept in a sentence: `sea: `, or nothing for pairs that name none."""
    return f"{concept}: " if concept else ""
