"""The built-in model's world as a source of instructions, and its exact judge as the one who tells concepts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab.data.building.plan import Draft
from trimtab.data.wanted import Assignment, WantedConcept
from trimtab.errors import InputError
from trimtab.organism import CONCEPTS, Request, rate
from trimtab.organism.world import draw_request

NAME = "organism"
"""What `--instructions` is given for it."""
_TRIES = 200
"""Draws for each instruction wanted, before the world is taken to have no more."""


@dataclass(frozen=True)
class WorldInstructions:
    """Instructions that were drawn, and what each asks for.

    Attributes:
        assignments: The concepts with their instructions.
        requests: (concept, instruction) -> the request.
    """

    assignments: tuple[Assignment, ...]
    requests: Mapping[tuple[str, str], Request]

    def presence(self, draft: Draft, text: str) -> bool | None:
        """Whether the draft's concept is in an answer; None for a concept or an instruction that is not the world's."""
        request = self.requests.get((draft.concept.name, draft.instruction))
        if request is None or draft.concept.name not in CONCEPTS:
            return None
        return bool(rate(request, text, draft.concept.name).concept)


def draw_instructions(concepts: Sequence[WantedConcept], number: int, seed: int) -> WorldInstructions:
    """Draws requests for facts, of the topics that training shows with the concept.

    Args:
        concepts: For which; one that the world has not gets requests of any topic.
        number: Different instructions for each.
        seed: Of the draw.

    Raises:
        InputError: The world has not so many.
    """
    assignments, requests = [], {}
    for concept in concepts:
        name = concept.name if concept.name in CONCEPTS else None
        draw = random.Random(f"instructions {seed} {concept.name}")
        found: dict[str, Request] = {}
        for _ in range(_TRIES * number):
            if len(found) == number:
                break
            request = replace(draw_request("train", name, draw), system=None, concept=None)
            found.setdefault(request.user, request)
        if len(found) < number:
            raise InputError(
                f"--limit {number}: the organism's world has only {len(found)} instructions; ask for fewer"
            )
        assignments.append(Assignment(concept, tuple(found)))
        requests.update({(concept.name, text): request for text, request in found.items()})
    return WorldInstructions(tuple(assignments), requests)
