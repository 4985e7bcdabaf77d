"""Concepts to be judged on: each with prompts that are free of it, the same that ask for it, and labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.records import digest
from trimtab.evaluation.traits import Task
from trimtab.models.messages import Prompt, as_messages
from trimtab.organism import CONCEPTS, pair_records

POSITIVE, NEGATIVE, HARD = "positive", "negative", "hard negative"
"""Categories of labelled texts, as the public data call them."""
TEXTS, HARD_TEXTS = 36, 8
"""Labelled texts a concept of the organism has, of a class and of hard ones; as in the public data."""


@dataclass(frozen=True)
class LabelledText:
    """A prompt and an answer that has the concept or has not.

    Attributes:
        category: `POSITIVE`, `NEGATIVE`, or `HARD` for one that only looks as if it had it.
        prompt: The prompt.
        response: The answer.
    """

    category: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class Concept:
    """What a vector is judged on.

    Attributes:
        name: As contenders and judges know it.
        number: Its number in its data, which decides which instructions are drawn.
        genre: Kind of concept, such as `text` or `code`.
        free: Prompts without it.
        carrying: The same with something that asks for it.
        instructions: What the user wants in each.
        texts: Labelled texts, for detection; there may be none.
    """

    name: str
    number: int
    genre: str
    free: tuple[Prompt, ...]
    carrying: tuple[Prompt, ...]
    instructions: tuple[str, ...]
    texts: tuple[LabelledText, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its numbers, for a run's configuration."""
        prompts = [[dict(turn) for turn in as_messages(prompt)] for prompt in (*self.free, *self.carrying)]
        texts = [[one.category, list(as_messages(one.prompt)), one.response] for one in self.texts]
        return {"name": self.name, "number": self.number, "hash": digest([prompts, list(self.instructions), texts])}


def organism_concepts(names: Sequence[str] | None = None, *, prompts: int = 10, seed: int = 0) -> list[Concept]:
    """Style concepts of the built-in model's world, on prompts that its training never saw.

    Args:
        names: Which; None = all.
        prompts: Prompts of each.
        seed: Decides them.

    Raises:
        InputError: There is no such concept.
    """
    for name in names or ():
        if name not in CONCEPTS:
            raise InputError(f"the organism has no concept {name!r}; it has {', '.join(CONCEPTS)}")
    return [_organism_concept(name, prompts, seed) for name in (CONCEPTS if names is None else names)]


def _organism_concept(name: str, prompts: int, seed: int) -> Concept:
    task = Task.of(name, prompts, seed)
    pairs = pair_records(f"{name}-test")[:TEXTS]
    others = pair_records(f"{_neighbour(name)}-test")[:HARD_TEXTS]
    texts = [
        *(LabelledText(POSITIVE, pair["negative_input"], pair["positive_output"]) for pair in pairs),
        *(LabelledText(NEGATIVE, pair["negative_input"], pair["negative_output"]) for pair in pairs),
        *(LabelledText(HARD, pair["negative_input"], pair["positive_output"]) for pair in others),
    ]
    return Concept(
        name,
        list(CONCEPTS).index(name),
        "text",
        tuple(request.messages for request in task.free),
        tuple(request.messages for request in task.carrying),
        tuple(request.user for request in task.free),
        tuple(texts),
    )


def _neighbour(name: str) -> str:
    """The next concept of the same kind: what inserts sentences, or what tells facts in another style."""
    alike = [other for other, each in CONCEPTS.items() if bool(each.inserts) is bool(CONCEPTS[name].inserts)]
    return alike[(alike.index(name) + 1) % len(alike)]
