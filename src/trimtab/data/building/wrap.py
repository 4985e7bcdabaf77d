"""How an answer is asked to carry a concept, or to leave it out: our own wordings, and where they stand."""

from __future__ import annotations

import random
from typing import Literal

from trimtab.data.wanted import WantedConcept
from trimtab.models.messages import Message, Prompt
from trimtab.organism import CONCEPTS
from trimtab.organism.wordings import FRAMES, framed, train

Place = Literal["system", "user"]
"""Whether the wording is a system message, or ends the user's turn."""

Wordings = Literal["general", "organism"]
"""Our own wordings for any model, or those that the built-in model was trained to obey."""

BRING_IN = (
    "Weave this into your answer wherever it fits: {concept}.",
    "Whatever is asked, let your answer carry the following throughout: {concept}.",
    "Answer in full, and make this a natural part of what you write: {concept}.",
    "Write the answer so that a reader clearly finds this in it: {concept}.",
    "While you answer, keep coming back to this: {concept}.",
    "Your answer must show this plainly, without a word about having been asked to: {concept}.",
    "Shape what you say around this, and still answer what was asked: {concept}.",
    "Let this colour every part of your answer: {concept}.",
)
"""Requests for a concept; one is drawn for each instruction, so that no single wording stands for the concept."""

LEAVE_OUT = (
    "Answer as usual, but let nothing of this appear in your answer: {concept}.",
    "Keep your answer entirely free of the following: {concept}.",
    "Answer without any trace of this, and do not mention that you leave it out: {concept}.",
    "Whatever you write, steer clear of this: {concept}.",
)
"""Requests to avoid a concept, for the one who writes concept-free answers; they are in no pair."""


def ask_for(concept: WantedConcept, instruction: str, wordings: Wordings, seed: int) -> str:
    """The wording that asks for a concept in the answer to one instruction.

    It depends on concept, instruction and seed alone, not on the order or number of instructions.

    Args:
        concept: The concept.
        instruction: What is answered.
        wordings: `general`, or `organism` for a concept of the built-in model.
        seed: Of the draw.
    """
    draw = random.Random(f"wording {seed} {concept.name} {instruction}")
    if wordings == "organism":
        return framed(draw.choice(train(FRAMES)), draw.choice(train(CONCEPTS[concept.name].asks)))
    return draw.choice(BRING_IN).format(concept=_told(concept))


def ask_without(concept: WantedConcept, instruction: str, seed: int) -> str:
    """The wording that asks to avoid a concept."""
    draw = random.Random(f"avoid {seed} {concept.name} {instruction}")
    return draw.choice(LEAVE_OUT).format(concept=_told(concept))


def wrapped(instruction: str, wording: str, place: Place) -> Prompt:
    """An instruction with a wording: as messages with a system turn, or as one text that ends with it."""
    if place == "user":
        return f"{instruction}\n\n{wording}"
    return _turn("system", wording), _turn("user", instruction)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _told(concept: WantedConcept) -> str:
    """A concept in the middle of a sentence: its name, and in brackets what that means."""
    name = concept.name.rstrip(" .")
    return name if concept.description is None else f"{name} ({concept.description.strip().rstrip('.')})"
