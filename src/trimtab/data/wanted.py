"""What a build starts from: concepts to bring in, and instructions to be answered with and without them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.read import Row
from trimtab.data.tables import cell, read_table
from trimtab.data.validate import listed
from trimtab.errors import InputError, check_characters

logger = logging.getLogger(__name__)

CONCEPT_COLUMNS = ("concept", "name")
INSTRUCTION_COLUMNS = ("instruction", "input", "prompt", "goal")
"""Where a table holds what it is read for; the first that a row has is taken."""


@dataclass(frozen=True)
class WantedConcept:
    """A concept to build pairs for.

    Attributes:
        name: What the `concept` column will say, and what an answer is asked to carry.
        number: What the `concept_id` column will say; 0 or more.
        description: More words on it, for the one who writes; None = the name says all.
        genre: What the `concept_genre` column will say.
    """

    name: str
    number: int = 0
    description: str | None = None
    genre: str = "text"


@dataclass(frozen=True)
class Assignment:
    """One concept and the instructions that are answered with and without it."""

    concept: WantedConcept
    instructions: tuple[str, ...]


def parse_concepts(words: Sequence[str]) -> tuple[WantedConcept, ...]:
    """The concepts of `--concept NAME` and `--concept NAME=DESCRIPTION`, numbered from 0.

    Raises:
        InputError: An empty name or description, or a name given twice.
    """
    rows = []
    for word in words:
        name, sign, description = (part.strip() for part in word.partition("="))
        if not name or (sign and not description):
            raise InputError(f"--concept {word!r}: takes NAME, or NAME=DESCRIPTION with both sides written")
        rows.append(Row(f"--concept {word!r}", {"concept": name, "description": description or None}))
    return _concepts(rows, "--concept")


def read_concepts(path: Path) -> tuple[WantedConcept, ...]:
    """The concepts of a file: one a line, or columns `concept`, `description`, `concept_id`, `concept_genre`.

    AxBench's `metadata.jsonl` is read too.

    Raises:
        InputError: The file or one of its rows cannot be read, a concept is named twice, or there is none.
    """
    return _concepts(read_table(path, "concepts"), str(path))


def read_instructions(path: Path, column: str | None = None) -> tuple[str, ...]:
    """The instructions of a file, each once.

    Args:
        path: One a line (.txt), or a table with one of `INSTRUCTION_COLUMNS`.
        column: Another column to take.

    Raises:
        InputError: The file or one of its rows cannot be read, or there is no instruction.
    """
    names = INSTRUCTION_COLUMNS if column is None else (column,)
    texts = [_named_text(row, names, "instruction") for row in read_table(path, "instructions")]
    found = tuple(dict.fromkeys(texts))
    if not found:
        raise InputError(f"{path}: holds no instruction; write at least one, one a line")
    if len(found) < len(texts):
        logger.warning("%s: %d instructions stand there twice and are taken once", path, len(texts) - len(found))
    return found


def _concepts(rows: Iterable[Row], source: str) -> tuple[WantedConcept, ...]:
    found: dict[str, WantedConcept] = {}
    for place, row in enumerate(rows):
        concept = _concept(row, place)
        if concept.name in found:
            raise InputError(f"{row.where}: the concept {concept.name!r} is named twice; name each once")
        found[concept.name] = concept
    if not found:
        raise InputError(f"{source}: holds no concept; name at least one")
    numbers = [concept.number for concept in found.values()]
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise InputError(f"{source}: concept_id {twice[0]} is given twice; number every concept, each differently")
    return tuple(found.values())


def _concept(row: Row, place: int) -> WantedConcept:
    name = _named_text(row, CONCEPT_COLUMNS, "concept")
    if not isinstance(row.value, Mapping):
        return WantedConcept(name, place)
    description = cell(row.value, "description")
    if description is not None and not isinstance(description, str):
        raise InputError(f"{row.where}: the description is {description!r}; give a text")
    if description is not None:
        check_characters(f"{row.where}: the description", description)
    return WantedConcept(name, _number(row, place), description, _genre(row, name))


def _number(row: Row, place: int) -> int:
    found = cell(row.value, "concept_id", "id")
    if found is None:
        return place
    try:
        number = int(str(found))
    except ValueError:
        number = -1
    if number < 0:
        raise InputError(f"{row.where}: concept_id is {found!r}; give a whole number, 0 or more")
    return number


def _genre(row: Row, name: str) -> str:
    genres: Any = cell(row.value, "concept_genres_map")  # AxBench: {name: [genre]}
    if isinstance(genres, Mapping) and isinstance(genres.get(name), list) and genres[name]:
        return str(genres[name][0])
    return str(cell(row.value, "concept_genre", "genre") or "text")


def _named_text(row: Row, names: Sequence[str], what: str) -> str:
    """A row's one text: the row itself, or its cell under the first of the names that it has."""
    value = row.value
    if isinstance(value, Mapping):
        if not any(name in value for name in names):
            there = listed([str(name) for name in value]) or "none"
            wanted = " or ".join(map(repr, names))
            raise InputError(f"{row.where}: has no column {wanted} for the {what}; there are: {there}")
        value = cell(value, *names)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{row.where}: the {what} is {value!r}; give a text")
    check_characters(f"{row.where}: the {what}", value)
    return value.strip()
