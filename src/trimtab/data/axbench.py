"""The layout in which AxBench publishes its data: `metadata.jsonl`, `train_data.parquet`, `latent_eval_data.parquet`.

The training table holds positive rows for each concept; its negative rows are kept once for each genre, under the
concept id -1 and a placeholder for the concept's name. The detection table has positive, negative and hard negative
rows for each concept, the last of which use a word of the concept in another of its meanings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trimtab.data.tables import read_table
from trimtab.data.validate import listed
from trimtab.data.wanted import WantedConcept, read_concepts
from trimtab.errors import InputError, check_characters

METADATA, TRAINING, DETECTION = "metadata.jsonl", "train_data.parquet", "latent_eval_data.parquet"
"""The files of the layout."""

SHARED_ID, SHARED_NAME = -1, "EEEEE"
"""Concept id and name of the negative rows that all concepts of a genre share."""

CATEGORIES = ("positive", "negative", "hard negative")
"""What a row can be to its concept."""

_TEXTS = ("input", "output", "output_concept", "concept_genre", "category")


@dataclass(frozen=True)
class AxbenchRow:
    """One row of the training or the detection table.

    Attributes:
        concept_id: Number of the concept; -1 for a shared negative.
        concept: Its name; of a hard negative `word//meaning`, of a shared negative a placeholder.
        instruction: What was asked, without any wording that asks for the concept.
        output: The answer.
        genre: `text`, `code` or `math`.
        category: One of `CATEGORIES`.
    """

    concept_id: int
    concept: str
    instruction: str
    output: str
    genre: str
    category: str


@dataclass(frozen=True)
class Training:
    """The rows of a training table.

    Attributes:
        rows: In their order.
        source: The file.
    """

    rows: tuple[AxbenchRow, ...]
    source: str

    @cached_property
    def _positives(self) -> Mapping[int, tuple[AxbenchRow, ...]]:
        return _grouped((row.concept_id, row) for row in self.rows if row.category == "positive")

    @cached_property
    def _negatives(self) -> Mapping[str, tuple[AxbenchRow, ...]]:
        return _grouped((row.genre, row) for row in self.rows if row.concept_id == SHARED_ID)

    def positives(self, concept_id: int) -> tuple[AxbenchRow, ...]:
        """The rows that carry a concept."""
        return self._positives.get(concept_id, ())

    def negatives(self, genre: str) -> tuple[AxbenchRow, ...]:
        """The rows without any concept that the concepts of a genre share."""
        return self._negatives.get(genre, ())

    @property
    def numbers_text(self) -> str:
        """The concepts that it has positive rows of, for an error."""
        return listed([str(number) for number in sorted(self._positives)]) or "no concept"


def axbench_concepts(folder: str | Path) -> tuple[WantedConcept, ...]:
    """The concepts of `metadata.jsonl`, with number and genre.

    Raises:
        InputError: No such folder or file, or a row that cannot be read.
    """
    return read_concepts(_file(folder, METADATA))


def choose_concepts(concepts: Sequence[WantedConcept], wanted: Sequence[str]) -> tuple[WantedConcept, ...]:
    """Those of the concepts that are named, by name or number; all where none is.

    Raises:
        InputError: There is no such concept.
    """
    if not wanted:
        return tuple(concepts)
    found = {}
    for word in wanted:
        match = [concept for concept in concepts if word in (concept.name, str(concept.number))]
        if not match:
            there = listed([f"{concept.number} ({concept.name})" for concept in concepts])
            raise InputError(f"--concept {word!r}: there is no such concept; there are: {there}")
        found[match[0].number] = match[0]
    return tuple(found.values())


def read_training(folder: str | Path) -> Training:
    """The training table of a folder.

    Raises:
        InputError: No such folder or file, a column that is missing, or a row that cannot be read.
    """
    path = _file(folder, TRAINING)
    return Training(_rows(path), str(path))


def read_detection(folder: str | Path) -> tuple[AxbenchRow, ...]:
    """The rows of the detection table: positive, negative and hard negative, each under its concept.

    Raises:
        InputError: As `read_training`.
    """
    return _rows(_file(folder, DETECTION))


def _file(folder: str | Path, name: str) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one of AxBench's layout, with {METADATA} and {TRAINING}")
    if not (folder / name).is_file():
        raise InputError(f"{folder}: holds no {name}; give a folder of AxBench's layout")
    return folder / name


def _rows(path: Path) -> tuple[AxbenchRow, ...]:
    rows = tuple(_row(value, where) for where, value in read_table(path, "AxBench rows"))
    if not rows:
        raise InputError(f"{path}: has no rows; give a table of AxBench's layout")
    return rows


def _row(value: Mapping[str, Any], where: str) -> AxbenchRow:
    for name in (*_TEXTS, "concept_id"):
        if name not in value:
            raise InputError(f"{where}: column {name!r} is missing; there are: {listed([*map(str, value)]) or 'none'}")
    for name in _TEXTS:
        if not isinstance(value[name], str):
            raise InputError(f"{where}: column {name!r} is {value[name]!r}; give a text")
        check_characters(f"{where}: column {name!r}", value[name])
    number, category = value["concept_id"], value["category"]
    if isinstance(number, bool) or not isinstance(number, int) or number < SHARED_ID:
        raise InputError(f"{where}: column 'concept_id' is {number!r}; give a whole number, -1 for shared negatives")
    if category not in CATEGORIES:
        raise InputError(f"{where}: column 'category' is {category!r}; allowed: {', '.join(CATEGORIES)}")
    if number == SHARED_ID and category != "negative":
        raise InputError(f"{where}: concept_id -1 marks shared negatives, and this row is {category}; give its number")
    return AxbenchRow(
        number, value["output_concept"], value["input"], value["output"], value["concept_genre"], category
    )


def _grouped(rows: Any) -> Mapping[Any, tuple[AxbenchRow, ...]]:
    found: dict[Any, list[AxbenchRow]] = {}
    for key, row in rows:
        found.setdefault(key, []).append(row)
    return {key: tuple(group) for key, group in found.items()}
