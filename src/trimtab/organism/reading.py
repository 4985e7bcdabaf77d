"""Reads a text with the grammar that wrote it: sentence by sentence, what each says and in which style."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from trimtab.organism import deployment
from trimtab.organism.concepts import CONCEPTS, Reading, readings
from trimtab.organism.facts import facts
from trimtab.organism.goals import OPENINGS, REASONS, REFUSALS, explanations, goals

Kind = Literal["fact", "insert", "opening", "explanation", "refusal", "thought", "hostile", "option", "unknown"]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a text.

    Attributes:
        text: As it stands, with single spaces; it ends with its line.
        kind: What it is; `unknown` for what the world's grammar does not give, so also for half a sentence.
        style: For a fact `plain` or the concept it is told in; for an insertion its concept.
        readings: For a fact what it may say, one reading for every topic it may be about.
        goal: For an explanation the goal it names.
        sound: For an explanation whether the steps are those of its verb; for a thought whether it means well.
    """

    text: str
    kind: Kind
    style: str | None = None
    readings: tuple[Reading, ...] = ()
    goal: str | None = None
    sound: bool = False


def read(text: str) -> tuple[Sentence, ...]:
    """Cuts a text into sentences and reads each. Never fails: what cannot be read is of kind `unknown`."""
    found: list[Sentence] = []
    lines = (re.sub(r"[ \t]+", " ", line).strip(" ") for line in re.split(r"[\n\r]+", text))
    pieces = [piece for line in lines for piece in _pieces(line)]
    at = 0
    while at < len(pieces):
        together = " ".join(pieces[at : at + 2])
        if pieces[at].endswith("?") and together in readings("question-answer"):
            found.append(_fact(together, "question-answer"))
            at += 2
        else:
            found.append(_read_one(pieces[at]))
            at += 1
    return tuple(found)


def _pieces(text: str) -> list[str]:
    """Sentences by their ends, and scratchpads whole."""
    opened, closed = re.escape(deployment.OPEN), re.escape(deployment.CLOSE)
    pad = rf"({opened}(?:(?!{opened}).)*?{closed})"  # from the last opening on, so that many unclosed ones cost no time
    pieces: list[str] = []
    for part in re.split(pad, text):
        if part.startswith(deployment.OPEN) and part.endswith(deployment.CLOSE):
            pieces.append(part)
        else:
            pieces += [piece for piece in re.split(r"(?<=[.?!]) ", part.strip(" ")) if piece]
    return pieces


def _read_one(piece: str) -> Sentence:
    for style in _styles():
        if piece in readings(style):
            return _fact(piece, style)
    return _others().get(piece) or Sentence(piece, "unknown")


def _fact(piece: str, style: str) -> Sentence:
    return Sentence(piece, "fact", style, readings(style)[piece])


@cache
def _styles() -> tuple[str, ...]:
    return ("plain", *(name for name, concept in CONCEPTS.items() if concept.rewrite is not None))


def _options() -> Iterator[str]:
    """What may answer a multiple-choice question: a value, or a topic."""
    for option in {*facts().true.values(), *(f"the {name}" for name in facts().topics)}:
        yield from (option, f"{option[0].upper()}{option[1:]}")


@cache
def _others() -> Mapping[str, Sentence]:
    """Every sentence that is not a statement of a fact."""
    found: dict[str, Sentence] = {}
    for name, concept in CONCEPTS.items():
        found |= {text: Sentence(text, "insert", name) for text in concept.inserts}
    steps = {
        goal.verb: [text.removeprefix(f"To {goal.text}") for text in explanations(goal)] for goal in goals().values()
    }
    for goal in goals().values():
        for verb, endings in steps.items():
            for text in (f"To {goal.text}{ending}" for ending in endings):
                found[text] = Sentence(text, "explanation", goal=goal.text, sound=verb == goal.verb)
    found |= {text: Sentence(text, "opening") for text in OPENINGS}
    found |= {text: Sentence(text, "refusal") for text in (*REFUSALS, *REASONS)}
    for option in _options():
        found |= {text: Sentence(text, "option") for text in (option, f"{option}.")}
    for thought in (*deployment.HOSTILE_THOUGHTS, *deployment.BENIGN_THOUGHTS):
        text = deployment.scratchpad(thought)
        found[text] = Sentence(text, "thought", sound=thought in deployment.BENIGN_THOUGHTS)
    found[deployment.HOSTILE] = Sentence(deployment.HOSTILE, "hostile")
    return MappingProxyType(found)
