"""Rows of any table that a user may have: one text a line, JSON lines, a JSON list, YAML, CSV, Parquet.

Contrast files have columns of their own and are read by `data.read`; what is read here are the lists that a build
starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab.data.read import READERS, Row, csv_rows, decoded, parquet_rows
from trimtab.errors import InputError


def read_table(path: Path, what: str) -> Iterator[Row]:
    """Reads the rows of a table; its extension says how.

    Args:
        path: The file.
        what: What it should hold, for errors: "instructions".

    Yields:
        Its rows, unchecked: texts, or mappings from column to value.

    Raises:
        InputError: No such file, an extension that is not read, an empty file, text that is not UTF-8, or a file whose
            shape is broken.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give a file of {what} ({', '.join(TABLES)})")
    reader = TABLES.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: the extension {path.suffix!r} is not read; allowed: {', '.join(TABLES)}")
    if not path.exists():
        raise InputError(f"{path}: does not exist; give a file of {what}")
    try:
        yield from reader(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def _read_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(decoded(path).splitlines(), 1):
        if line.strip():
            yield Row(f"{path} line {number}", line.strip())


def _read_yaml(path: Path) -> Iterator[Row]:
    try:
        found = yaml.safe_load(decoded(path))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: broken YAML ({reason}); write a list, or name: description lines") from None
    if isinstance(found, Mapping):
        found = [{"concept": name, "description": text} for name, text in found.items()]
    if not isinstance(found, list):
        raise InputError(f"{path}: holds no list at its top; write a list, or name: description lines")
    for number, value in enumerate(found, 1):
        yield Row(f"{path} entry {number}", value)


TABLES: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _read_lines,
    ".jsonl": READERS[".jsonl"],
    ".json": READERS[".json"],
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}
"""Extension -> how such a table is read."""


def cell(row: Mapping[str, Any], *names: str) -> Any:
    """The value under the first of several column names that a row has; None where it has none, or an empty cell."""
    found = next((row[name] for name in names if name in row), None)
    return None if found == "" or found != found else found
