"""Where concepts to be judged come from: the organism's world, AxBench's published layout, or a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data.axbench import DETECTION, AxbenchRow, axbench_concepts, choose_concepts, read_detection
from trimtab.data.building.wrap import Place, ask_for, wrapped
from trimtab.data.hub import hub_file
from trimtab.data.wanted import WantedConcept, read_concepts, read_instructions
from trimtab.errors import InputError
from trimtab.evaluation.concepts import Concept, LabelledText, organism_concepts

ORGANISM = "organism"
ALPACA_EVAL = "alpaca_eval"
"""The published instructions, by the name that fetches them from the Hub; they are CC BY-NC and not shipped."""


@dataclass(frozen=True)
class ConceptSet:
    """Concepts and where they are from.

    Attributes:
        concepts: What is judged.
        source: A path, or `organism`.
    """

    concepts: tuple[Concept, ...]
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides their numbers, for a run's configuration."""
        return {"concepts": [dict(concept.identity) for concept in self.concepts]}


def load_concepts(
    source: str,
    *,
    names: Sequence[str] = (),
    prompts: int = 10,
    instructions: str | None = None,
    place: Place = "system",
    seed: int = 0,
) -> ConceptSet:
    """Concepts with their prompts.

    Args:
        source: `organism`, a folder of AxBench's layout, or a file of concepts (`read_concepts`).
        names: Names or numbers of those to take; none = all.
        prompts: Instructions a concept.
        instructions: A file of instructions, or `alpaca_eval`, the published ones; None = `alpaca_eval`. The organism
            has its own.
        place: Where a prompt that carries the concept asks for it.
        seed: Of what is drawn. Which instructions a concept gets depends, as published, on its number alone.

    Raises:
        InputError: A source that cannot be read, fewer instructions than a concept needs, or a name that is not there.
        NetworkError: The published instructions cannot be fetched.
    """
    if prompts < 2:
        raise InputError(f"prompts is {prompts}; one half of them chooses and the other reports, so give at least 2")
    if source == ORGANISM and not Path(source).exists():
        if instructions is not None:
            raise InputError("the organism has instructions of its own; leave --instructions out")
        return ConceptSet(tuple(organism_concepts(names or None, prompts=prompts, seed=seed)), ORGANISM)
    path = Path(source)
    found = choose_concepts(axbench_concepts(path) if path.is_dir() else read_concepts(path), names)
    texts = read_detection(path) if path.is_dir() and (path / DETECTION).is_file() else ()
    asked = read_instructions(_instructions(instructions))
    return ConceptSet(tuple(_concept(each, asked, texts, prompts, place, seed) for each in found), source)


def _instructions(given: str | None) -> Path:
    if given is None or (given == ALPACA_EVAL and not Path(given).exists()):
        return hub_file("tatsu-lab/alpaca_eval", "alpaca_eval.json")
    return Path(given)


def _concept(
    wanted: WantedConcept,
    asked: Sequence[str],
    rows: Sequence[AxbenchRow],
    prompts: int,
    place: Place,
    seed: int,
) -> Concept:
    if len(asked) < prompts:
        raise InputError(f"{len(asked)} instructions for {prompts} a concept; give more, or lower --prompts")
    if wanted.number >= 2**32:
        raise InputError(f"concept_id {wanted.number} of {wanted.name!r} is too large to draw by; give one below 2^32")
    # what pandas' sample(n, random_state=number) takes, as the published code calls it
    drawn: list[int] = np.random.RandomState(wanted.number).choice(len(asked), prompts, replace=False).tolist()
    instructions = tuple(asked[k] for k in drawn)
    return Concept(
        wanted.name,
        wanted.number,
        wanted.genre,
        instructions,
        tuple(wrapped(text, ask_for(wanted, text, "general", seed), place) for text in instructions),
        instructions,
        tuple(
            LabelledText(row.category, row.instruction, row.output) for row in rows if row.concept_id == wanted.number
        ),
    )
