"""`load_pairs`: contrast data from wherever they are, checked."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.data.builtin import builtin_datasets, is_builtin, read_builtin
from trimtab.data.hub import PREFIX, read_hub
from trimtab.data.pairs import ContrastPair, PairSet
from trimtab.data.read import READERS, Row, read_file
from trimtab.data.validate import listed, read_row
from trimtab.errors import InputError

logger = logging.getLogger(__name__)

PairSource = str | Path | PairSet | Sequence[ContrastPair | Mapping[str, Any]]
"""Anything that `load_pairs` reads."""


def load_pairs(source: PairSource, *, concept: str | int | None = None) -> PairSet:
    """Reads contrast pairs and checks every row.

    Rows whose `concept_id` is negative are left out and counted in `PairSet.skipped`.

    Args:
        source: A path (.jsonl, .json, .csv, .parquet), the name of built-in data, `hub:owner/name[:split]`, or a list
            of `ContrastPair` or mappings with the same names.
        concept: Name or number of the concept to take, for sources that hold several.

    Returns:
        The pairs of one concept.

    Raises:
        InputError: The source or one of its rows is wrong, it holds several concepts and `concept` is not given, or
            it has not the concept.
        NetworkError: The Hub cannot be reached.
    """
    name = _name(source)
    pairs: list[ContrastPair] = []
    skipped = 0
    for where, value in _rows(source):
        pair = read_row(value, where)
        if pair is None:
            skipped += 1
        else:
            pairs.append(pair)
    if skipped:
        logger.info("%s: %d rows with a negative concept id are left out", name, skipped)
    if not pairs:
        left_out = f" ({skipped} rows with a negative concept id are left out)" if skipped else ""
        raise InputError(f"{name}: holds no contrast pair{left_out}; give at least one")
    return PairSet(_of_one_concept(pairs, concept, name), source=name, skipped=skipped)


def concept_names(source: PairSource) -> tuple[str, ...]:
    """The concepts of a source, in the order of their first pair: names, or numbers where there are no names.

    Raises:
        InputError: As of `load_pairs`, and where no pair says which concept it is of.
        NetworkError: The Hub cannot be reached.
    """
    read = (read_row(value, where) for where, value in _rows(source))
    found = PairSet(pair for pair in read if pair is not None).concepts
    if not found:
        raise InputError(f"{_name(source)}: no pair says which concept it is of; name one")
    return found


def pairs_by_concept(source: PairSource) -> dict[str, PairSet]:
    """All pairs of a source that holds several concepts, read once.

    Returns:
        By the names of `concept_names`, in its order.

    Raises:
        InputError: As of `concept_names`.
        NetworkError: The Hub cannot be reached.
    """
    found: dict[str, list[ContrastPair]] = {}
    for where, value in _rows(source):
        pair = read_row(value, where)
        if pair is not None:
            for name in PairSet([pair]).concepts:
                found.setdefault(name, []).append(pair)
    if not found:
        raise InputError(f"{_name(source)}: no pair says which concept it is of; name one")
    return {name: PairSet(pairs, source=_name(source)) for name, pairs in found.items()}


def of_concept(found: Mapping[str, PairSet], concept: str, name: str) -> PairSet:
    """Those of `pairs_by_concept` of a concept, by its name or number.

    Args:
        found: By name.
        concept: Name or number.
        name: Of the source, for an error.

    Raises:
        InputError: There is no such concept.
    """
    if concept in found:
        return found[concept]
    for pairs in found.values():
        if str(pairs[0].concept_id) == concept:
            return pairs
    there = _list_concepts([pairs[0] for pairs in found.values()])
    raise InputError(f"{name}: has no concept {concept!r}; there are: {there}")


def _name(source: PairSource) -> str:
    if isinstance(source, PairSet):
        return source.source
    return str(source) if isinstance(source, (str, Path)) else "list"


def _rows(source: PairSource) -> Iterator[Row]:
    if isinstance(source, Path):
        return read_file(source)
    if isinstance(source, str):
        return _named_rows(source)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"pairs are a {type(source).__name__}; give a path, a name, or a list of ContrastPair")
    return (Row(f"pair {number}", value) for number, value in enumerate(source, 1))


def _named_rows(source: str) -> Iterator[Row]:
    if source.startswith(PREFIX):
        return read_hub(source)
    if is_builtin(source):
        return read_builtin(source)
    path = Path(source)
    if path.suffix.lower() not in READERS and not path.exists():
        names = [entry.name for entry in builtin_datasets()]
        near = difflib.get_close_matches(source, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"pairs {source!r}: neither a file ({', '.join(READERS)}) nor built-in data ({listed(names)}) "
            f"nor {PREFIX}owner/name{hint}"
        )
    return read_file(path)


def _of_one_concept(pairs: list[ContrastPair], concept: str | int | None, name: str) -> list[ContrastPair]:
    """The pairs of the concept that was asked for, or all if they have but one."""
    if concept is not None:
        wanted = str(concept)
        for taken in (
            [pair for pair in pairs if pair.concept == wanted],
            [pair for pair in pairs if pair.concept_id is not None and str(pair.concept_id) == wanted],
        ):
            if taken:
                return taken
        raise InputError(f"{name}: has no concept {wanted!r}; there are: {_list_concepts(pairs)}")
    if len({(pair.concept_id, pair.concept) for pair in pairs}) > 1:
        raise InputError(f"{name}: holds several concepts; choose one with --concept: {_list_concepts(pairs)}")
    return pairs


def _list_concepts(pairs: list[ContrastPair]) -> str:
    """Numbers and names of the concepts, as many as fit a line."""
    found = dict.fromkeys((pair.concept_id, pair.concept) for pair in pairs)
    return listed([_concept_label(number, name) for number, name in found])


def _concept_label(number: int | None, name: str | None) -> str:
    if number is None or name is None:
        return name or ("(none)" if number is None else str(number))
    return f"{number} ({name})"
