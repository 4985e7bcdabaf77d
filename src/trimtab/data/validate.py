"""Turning one raw row into a `ContrastPair`, or saying in one line what is wrong with it and where."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from trimtab.data.pairs import ContrastPair
from trimtab.errors import InputError, check_characters

if TYPE_CHECKING:
    from trimtab.models.messages import Prompt

REQUIRED = ("positive_input", "positive_output", "negative_input", "negative_output")
"""The columns that every contrast file has."""

OPTIONAL = ("concept", "concept_id", "concept_genre")
"""The columns that it may have; others are not read."""


def check_columns(columns: Sequence[str], where: str) -> None:
    """Raises an `InputError` that names the first missing column, what is there, and the nearest name."""
    for column in REQUIRED:
        if column not in columns:
            near = difflib.get_close_matches(column, [name for name in columns if name not in REQUIRED], n=1)
            hint = f"; rename {near[0]!r}?" if near else ""
            raise InputError(f"{where}: column {column!r} is missing; there are: {listed(columns) or 'none'}{hint}")


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Names for an error's one line: each shortened, at most `limit` of them."""
    shown = [" ".join(name.split()) for name in names[:limit]]
    shown = [name if len(name) <= 60 else name[:60] + "..." for name in shown]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def read_row(row: Any, where: str) -> ContrastPair | None:
    """Checks one row.

    Args:
        row: A mapping from column to value, or a `ContrastPair` to be checked like one.
        where: What an error names: file and line.

    Returns:
        The pair, or None for a row whose concept id is negative (published files mark extra rows so).

    Raises:
        InputError: A column is missing or holds the wrong type, an output is empty, or both sides have one prompt.
    """
    if isinstance(row, ContrastPair):
        row = vars(row)
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: a row is {_kind(row)}; give an object with the columns {', '.join(REQUIRED)}")
    check_columns([str(name) for name in row], where)
    concept_id = _number(row.get("concept_id"), where)
    if concept_id is not None and concept_id < 0:
        return None
    pair = ContrastPair(
        positive_input=_prompt(row["positive_input"], "positive_input", where),
        positive_output=_output(row["positive_output"], "positive_output", where),
        negative_input=_prompt(row["negative_input"], "negative_input", where),
        negative_output=_output(row["negative_output"], "negative_output", where),
        concept=_label(row.get("concept"), "concept", where),
        concept_id=concept_id,
        concept_genre=_label(row.get("concept_genre"), "concept_genre", where),
    )
    if _turns(pair.positive_input) == _turns(pair.negative_input):
        raise InputError(
            f"{where}: identical sides: positive_input equals negative_input; only the positive one carries the concept"
        )
    return pair


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: column {column!r} is {_kind(value)}; give a text")
    check_characters(f"{where}: column {column!r}", value)
    return value


def _output(value: Any, column: str, where: str) -> str:
    text = _text(value, column, where)
    if not text.strip():
        raise InputError(f"{where}: column {column!r} is empty; give the answer that follows the prompt")
    return text


def _prompt(value: Any, column: str, where: str) -> Prompt:
    if isinstance(value, str):
        return _text(value, column, where)
    if not isinstance(value, Sequence):
        raise InputError(f"{where}: column {column!r} is {_kind(value)}; give a text or a list of {{role, content}}")
    # Imported here: it stands for rows of messages only, and the models' room takes seconds to import.
    from trimtab.models.messages import as_messages

    try:
        messages = as_messages(value)
    except InputError as error:
        raise InputError(f"{where}: column {column!r}: {error}") from None
    for number, message in enumerate(messages, 1):
        _text(message["content"], f"{column} (turn {number})", where)
        others = [key for key, held in message.items() if key not in ("role", "content") and held is not None]
        if others:
            raise InputError(f"{where}: column {column!r}: turn {number} has {others[0]!r}; give only role and content")
    return tuple({"role": message["role"], "content": message["content"]} for message in messages)


def _turns(prompt: Prompt) -> tuple[Mapping[str, str], ...]:
    """A prompt as messages, so that a text equals its one user turn."""
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


def _label(value: Any, column: str, where: str) -> str | None:
    """An optional text; what spreadsheets leave in an empty cell counts as nothing."""
    if value is None or value == "" or value != value:
        return None
    return _text(value, column, where)


def _number(value: Any, where: str) -> int | None:
    """An optional whole number, also written as text (CSV) or as a float (a column with gaps)."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (str, float)):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number.is_integer():
            return int(number)
    raise InputError(f"{where}: column 'concept_id' is {value!r}; give a whole number")


def _kind(value: Any) -> str:
    """A value's type in words of a data file."""
    if value is None:
        return "empty (null)"
    names = {bool: "a truth value", int: "a number", float: "a number", dict: "an object", list: "a list"}
    name, shown = names.get(type(value), f"a {type(value).__name__}"), repr(value)
    return f"{name} ({shown if len(shown) <= 40 else shown[:40] + '...'})"
