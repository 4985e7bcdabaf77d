"""Contrast data that come with trimtab: written for it, or drawn from the organism's world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from trimtab.data.read import Row, json_lines
from trimtab.organism.pairs import pair_records, pair_sets


@dataclass(frozen=True)
class BuiltinDataset:
    """One line of the table that `trimtab datasets` shows.

    Attributes:
        name: What to give to `load_pairs` or `--pairs`.
        rows: Number of contrast pairs.
        description: What positive and negative are, and which models it suits.
        licence: SPDX identifier.
    """

    name: str
    rows: int
    description: str
    licence: str


_TABLE = (
    BuiltinDataset(
        "story-mood",
        64,
        "openings of children's stories, happy (positive) and sad (negative), and how they go on; for base models",
        "Apache-2.0",
    ),
    BuiltinDataset("story-mood-test", 32, "held-out pairs of story-mood, in other words", "Apache-2.0"),
    *(BuiltinDataset(drawn.name, drawn.rows, drawn.description, "Apache-2.0") for drawn in pair_sets()),
)
_DRAWN = frozenset(drawn.name for drawn in pair_sets())


def builtin_datasets() -> tuple[BuiltinDataset, ...]:
    """All data sets that come with trimtab."""
    return _TABLE


def is_builtin(name: str) -> bool:
    """Whether a data set of this name comes with trimtab."""
    return any(entry.name == name for entry in _TABLE)


def read_builtin(name: str) -> Iterator[Row]:
    """The rows of a data set that comes with trimtab, unchecked."""
    if name in _DRAWN:
        return (Row(f"{name}, pair {number}", record) for number, record in enumerate(pair_records(name), 1))
    text = resources.files("trimtab.data").joinpath("builtin", f"{name}.jsonl").read_text(encoding="utf-8")
    return json_lines(text, name)
