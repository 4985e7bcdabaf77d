"""Reading all rows of contrast data, wrong ones included, instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimtab.data.builtin import is_builtin, read_builtin
from trimtab.data.check.findings import SHOWN, Finding, Placed
from trimtab.data.hub import PREFIX, read_hub
from trimtab.data.load import load_pairs
from trimtab.data.read import READERS, Row, read_file
from trimtab.data.validate import listed, read_row
from trimtab.errors import InputError


@dataclass(frozen=True)
class Loaded:
    """What a source holds.

    Attributes:
        source: Its name.
        pairs: The pairs that can be loaded, with their places.
        rows: Rows that were read, those left out included.
        skipped: Rows that are left out because their concept id is negative.
        errors: Why it cannot be loaded as it is.
    """

    source: str
    pairs: tuple[Placed, ...]
    rows: int
    skipped: int
    errors: tuple[Finding, ...]


def read_all(source: str) -> Loaded:
    """Reads a file, a built-in set or a set of the Hub, row by row; what is wrong with a row becomes a finding.

    Args:
        source: As in `load_pairs`.

    Raises:
        InputError: There is no such source, or not one row of it can be read.
        NetworkError: The Hub cannot be reached.
    """
    pairs: list[Placed] = []
    faults: list[tuple[str, str]] = []
    rows = skipped = 0
    reading = _rows(source)
    while True:
        try:
            row = next(reading, None)
        except InputError as error:  # the reader cannot go on behind a line that is broken
            if not rows:
                raise
            faults.append((f"after row {rows}", f"{error} (what follows was not read)"))
            break
        if row is None:
            break
        rows += 1
        where = row.where.removeprefix(f"{source} ")
        try:
            pair = read_row(row.value, where)
        except InputError as error:
            faults.append((where, str(error)))
            continue
        if pair is None:
            skipped += 1
        else:
            pairs.append(Placed(where, pair))
    if not rows:
        raise InputError(f"{source}: holds no contrast pair; give at least one")
    return Loaded(source, tuple(pairs), rows, skipped, _errors(faults, source, pairs, skipped))


def of_concept(loaded: Loaded, concept: str | None) -> tuple[Placed, ...]:
    """The pairs of a concept, by name or number; all where none is named.

    Raises:
        InputError: There is no such concept.
    """
    if concept is None:
        return loaded.pairs
    taken = tuple(placed for placed in loaded.pairs if concept in (placed.pair.concept, str(placed.pair.concept_id)))
    if not taken:
        there = dict.fromkeys(str(placed.pair.concept or placed.pair.concept_id) for placed in loaded.pairs)
        raise InputError(f"{loaded.source}: has no concept {concept!r}; there are: {listed(list(there))}")
    return taken


def _rows(source: str) -> Iterator[Row]:
    if is_builtin(source):
        return read_builtin(source)
    if source.startswith(PREFIX):
        return read_hub(source)
    path = Path(source)
    if not path.exists() and path.suffix.lower() not in READERS:
        load_pairs(source)  # says what there is, and the nearest name
    return read_file(path)


def _errors(faults: list[tuple[str, str]], source: str, pairs: list[Placed], skipped: int) -> tuple[Finding, ...]:
    """One finding for each row, and one for the rest when there are many."""
    errors = [Finding("error", "row", text, 1, (where,)) for where, text in faults[:SHOWN]]
    if len(faults) > SHOWN:
        rest = tuple(where for where, _ in faults[SHOWN : 2 * SHOWN])
        errors.append(Finding("error", "row", "more rows that cannot be loaded", len(faults) - SHOWN, rest))
    if not pairs and not faults:
        text = f"{source} holds no contrast pair: {skipped} rows with a negative concept id are left out"
        errors.append(Finding("error", "row", text, skipped))
    return tuple(errors)
