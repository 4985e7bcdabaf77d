"""Preference rows, one prompt with a preferred and another answer, as contrast pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.data.load import load_pairs
from trimtab.data.pairs import PairSet
from trimtab.data.tables import read_table
from trimtab.data.validate import listed
from trimtab.errors import InputError

COLUMNS = ("input", "winning_output", "losing_output")
"""What every row has; `output_concept`, `concept_id` and `concept_genre` are read where they are there."""


def load_preferences(source: str | Path, positive_system: str, *, concept: str | None = None) -> PairSet:
    """Contrast pairs from preference rows.

    The preferred answer is the positive one. Both sides of a pair need a prompt of their own, and a row has but one: it
    is the negative prompt, and behind a system message it is the positive one.

    Args:
        source: A table: Parquet, JSON lines, JSON or CSV.
        positive_system: The system message.
        concept: Name or number of the concept to take, where there are several.

    Raises:
        InputError: The file cannot be read, or a row is wrong.
    """
    path = Path(source)
    rows = [_pair(row.value, row.where, positive_system) for row in read_table(path, "preference rows")]
    pairs = load_pairs(rows, concept=concept)
    return PairSet(pairs, source=str(path), skipped=pairs.skipped)


def _pair(row: Any, where: str, positive_system: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: is a {type(row).__name__}; give a row with the columns {', '.join(COLUMNS)}")
    for column in COLUMNS:
        if column not in row:
            raise InputError(f"{where}: column {column!r} is missing; there are: {listed([*map(str, row)])}")
        if not isinstance(row[column], str):
            raise InputError(f"{where}: column {column!r} is {row[column]!r}; give a text")
    return {
        "positive_input": [
            {"role": "system", "content": positive_system},
            {"role": "user", "content": row["input"]},
        ],
        "positive_output": row["winning_output"],
        "negative_input": row["input"],
        "negative_output": row["losing_output"],
        "concept": row.get("output_concept"),
        "concept_id": row.get("concept_id"),
        "concept_genre": row.get("concept_genre"),
    }
