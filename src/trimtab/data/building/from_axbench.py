"""From AxBench's positives-only table to contrast pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from trimtab.data.axbench import AxbenchRow, Training
from trimtab.data.building.plan import BuildSettings, Draft, Plan, check_wordings, draft
from trimtab.data.wanted import WantedConcept
from trimtab.errors import InputError

Negatives = Literal["model", "shared"]
"""Who answers without the concept: a writer, the same instruction; or rows of the table, instructions of the genre."""


def plan_axbench(
    training: Training,
    concepts: Sequence[WantedConcept],
    settings: BuildSettings,
    *,
    negatives: Negatives = "model",
    limit: int | None = None,
) -> Plan:
    """Plans a pair for each positive row: its own answer, and an answer without the concept.

    Args:
        training: The table.
        concepts: Which concepts.
        settings: How the instruction is wrapped, and the plain one answered.
        negatives: `model` has the row's own instruction answered; `shared` takes a row that the concepts of a genre
            share, the one of the same instruction if there is one, else another without repeating any before all were
            taken.
        limit: Most pairs a concept.

    Raises:
        InputError: A concept without a positive row, or a genre without a shared negative.
    """
    check_wordings(concepts, settings)
    drafts: list[Draft] = []
    for concept in concepts:
        rows = training.positives(concept.number)
        if not rows:
            raise InputError(
                f"{training.source}: has no positive row of concept {concept.number} ({concept.name}); "
                f"it has rows of {training.numbers_text}"
            )
        made = [
            draft(replace(concept, genre=row.genre), row.instruction, settings, positive=row.output)
            for row in rows[:limit]
        ]
        drafts += _shared(made, training, settings.seed) if negatives == "shared" else made
    return Plan(tuple(drafts))


def _shared(drafts: Sequence[Draft], training: Training, seed: int) -> Iterator[Draft]:
    """The drafts with rows of the table as their negative sides."""
    genre, number = drafts[0].concept.genre, drafts[0].concept.number
    rows = training.negatives(genre)
    if not rows:
        raise InputError(
            f"{training.source}: has no shared negative of the genre {genre!r}; use --negatives model --model M"
        )
    same = {row.instruction: row for row in rows}
    wanted = {draft.instruction for draft in drafts}
    others = [row for row in rows if row.instruction not in wanted] or list(rows)
    random.Random(f"shared {seed} {number}").shuffle(others)
    queue: list[AxbenchRow] = []
    for made in drafts:
        row = same.get(made.instruction)
        if row is None:
            queue = queue or others[::-1]
            row = queue.pop()
        yield replace(made, negative_input=row.instruction, negative=row.output)
