"""What is to be written: which pairs there shall be, and every answer that somebody has to write for them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trimtab.data.building.wrap import Place, Wordings, ask_for, ask_without, wrapped
from trimtab.data.wanted import Assignment, WantedConcept
from trimtab.errors import InputError
from trimtab.models.messages import Message, Prompt, as_messages
from trimtab.organism import CONCEPTS

PLACES: tuple[Place, ...] = ("system", "user")
WORDINGS: tuple[Wordings, ...] = ("general", "organism")


@dataclass(frozen=True)
class BuildSettings:
    """What decides which answers are asked for, and how.

    Args:
        place: Where the wording that asks for the concept stands.
        wordings: `general`, or `organism` for the concepts of the built-in model.
        avoid: Whether the writer of concept-free answers is told to avoid the concept; `negative_input` stays bare.
        temperature: 0 = greedy where the model itself writes; None = not sent, for endpoints that allow only their own.
        max_response_tokens: Longest answer.
        reply_tokens: Tokens that an endpoint may spend on an answer, thoughts included; None = `max_response_tokens`.
        seed: Of the wordings and of every answer's own seed.

    Raises:
        InputError: A setting outside its range.
    """

    place: Place = "system"
    wordings: Wordings = "general"
    avoid: bool = False
    temperature: float | None = 0.0
    max_response_tokens: int = 128
    reply_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise InputError(f"--place {self.place}: allowed: {', '.join(PLACES)}")
        if self.wordings not in WORDINGS:
            raise InputError(f"--wordings {self.wordings}: allowed: {', '.join(WORDINGS)}")
        if self.temperature is not None and (not math.isfinite(self.temperature) or self.temperature < 0):
            raise InputError(f"--temperature {self.temperature}: must be 0 (greedy) or a positive number")
        if self.max_response_tokens < 1:
            raise InputError(f"--max-response-tokens {self.max_response_tokens}: give at least 1")
        if self.reply_tokens is not None and self.reply_tokens < self.max_response_tokens:
            raise InputError(
                f"--reply-tokens {self.reply_tokens}: give at least --max-response-tokens, {self.max_response_tokens}"
            )


@dataclass(frozen=True)
class Ask:
    """One answer to be written.

    Attributes:
        messages: What the writer is asked.
        seed: Of this answer alone, so that it depends neither on the others nor on the order they are written in.
    """

    messages: tuple[Message, ...]
    seed: int

    @cached_property
    def id(self) -> str:
        """What the answer is found by: a hash of what is asked, and the seed."""
        return _digest(self.seed, self.messages)[:16]


@dataclass(frozen=True)
class Draft:
    """A pair to be: its prompts, and its answers as texts that are there already or as asks.

    Attributes:
        concept: Of which concept.
        instruction: What the positive side is asked, before the wording.
        positive_input: The instruction with the wording that asks for the concept.
        negative_input: A prompt without the concept.
        positive: The answer with the concept.
        negative: The answer without it.
    """

    concept: WantedConcept
    instruction: str
    positive_input: Prompt
    negative_input: Prompt
    positive: Ask | str
    negative: Ask | str


@dataclass(frozen=True)
class Plan:
    """All drafts of a build, in the order of the file to be."""

    drafts: tuple[Draft, ...]

    @cached_property
    def asks(self) -> tuple[Ask, ...]:
        """Every answer to be written, once: a plain answer serves all concepts that have its instruction."""
        wanted = (ask for draft in self.drafts for ask in (draft.positive, draft.negative) if isinstance(ask, Ask))
        return tuple({ask.id: ask for ask in wanted}.values())

    @property
    def concepts(self) -> tuple[WantedConcept, ...]:
        """The concepts, in the order of their first draft."""
        return tuple(dict.fromkeys(draft.concept for draft in self.drafts))


def plan_pairs(assignments: Iterable[Assignment], settings: BuildSettings) -> Plan:
    """Plans a pair for each concept and instruction; both answers are to be written.

    Args:
        assignments: Concepts with their instructions.
        settings: How.

    Raises:
        InputError: The organism's wordings are asked for and it knows a concept not.
    """
    assignments = tuple(assignments)
    check_wordings([assignment.concept for assignment in assignments], settings)
    return Plan(
        tuple(
            draft(assignment.concept, instruction, settings)
            for assignment in assignments
            for instruction in assignment.instructions
        )
    )


def draft(concept: WantedConcept, instruction: str, settings: BuildSettings, positive: str | None = None) -> Draft:
    """One pair to be.

    Args:
        concept: The concept.
        instruction: What both sides are asked.
        settings: How.
        positive: The answer with the concept, where it is there already.
    """
    prompt = wrapped(instruction, ask_for(concept, instruction, settings.wordings, settings.seed), settings.place)
    plain: Prompt = instruction
    if settings.avoid:
        plain = wrapped(instruction, ask_without(concept, instruction, settings.seed), settings.place)
    return Draft(
        concept=concept,
        instruction=instruction,
        positive_input=prompt,
        negative_input=instruction,
        positive=_ask(prompt, settings.seed) if positive is None else positive,
        negative=_ask(plain, settings.seed),
    )


def check_wordings(concepts: Sequence[WantedConcept], settings: BuildSettings) -> None:
    """Raises an InputError where the organism's wordings are asked for a concept that it has not."""
    strange = [concept.name for concept in concepts if concept.name not in CONCEPTS]
    if settings.wordings == "organism" and strange:
        raise InputError(
            f"--wordings organism: the built-in model has no concept {strange[0]!r}; it has {', '.join(CONCEPTS)}"
        )


def _ask(prompt: Prompt, seed: int) -> Ask:
    messages = as_messages(prompt)
    own = int(_digest(seed, messages)[:8], 16) >> 1  # 31 bits: what every endpoint takes
    return Ask(messages, own)


def _digest(seed: int, messages: Sequence[Message]) -> str:
    content = json.dumps([seed, [[turn["role"], turn["content"]] for turn in messages]])
    return hashlib.sha256(content.encode()).hexdigest()
