"""Rows of contrast files: JSON lines, a JSON list, CSV and Parquet.

Every reader hands out raw rows with the place that an error message names: the line, or the row of a Parquet file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.data.validate import check_columns
from trimtab.errors import InputError

Columns = Callable[[Sequence[str], str], None]
"""(column names, where they stand) -> nothing, or an InputError."""


class Row(NamedTuple):
    """One row as it stands in its source."""

    where: str
    value: Any


def read_file(path: Path) -> Iterator[Row]:
    """Reads the rows of a contrast file; its extension says how.

    Args:
        path: The file.

    Yields:
        Its rows, unchecked.

    Raises:
        InputError: No such file, an extension that is not read, an empty file, text that is not UTF-8, or a file whose
            shape is broken.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give a file of contrast pairs ({', '.join(READERS)})")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: the extension {path.suffix!r} is not read; allowed: {', '.join(READERS)}")
    if not path.exists():
        raise InputError(f"{path}: does not exist; give a file of contrast pairs")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty; give at least one contrast pair")
        yield from reader(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def json_lines(text: str, name: str) -> Iterator[Row]:
    """Rows of JSON lines; blank lines are passed over."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name} line {number}"
            yield Row(where, _json(line, where))


def _read_json_lines(path: Path) -> Iterator[Row]:
    return json_lines(decoded(path), str(path))


def _read_json(path: Path) -> Iterator[Row]:
    rows = _json(decoded(path), str(path), several=True)
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds no list at its top; give a JSON list of rows, or JSON lines as .jsonl")
    for number, value in enumerate(rows, 1):
        yield Row(f"{path} row {number}", value)


def csv_rows(path: Path, check: Columns | None = None) -> Iterator[Row]:
    """The rows of a CSV file, as mappings from column to cell.

    Args:
        path: The file.
        check: Told of the header before the first row; it refuses columns.

    Raises:
        InputError: Text that is not UTF-8, or broken CSV.
    """
    reader = csv.reader(io.StringIO(decoded(path), newline=""), strict=True)
    header: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            where, begin = f"{path} line {begin}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                if check is not None:
                    check(header, where)
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{where}: has {len(cells)} cells where the header has {len(header)}; quote the commas"
                )
            yield Row(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{path} line {begin}: broken CSV ({error}); quote cells that hold commas or quotes"
        ) from error


def parquet_rows(path: Path, check: Columns | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, as mappings from column to value; arguments as of `csv_rows`.

    Raises:
        InputError: No readable Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        if check is not None:
            check(table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{path} row {number}", value)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is no readable Parquet file ({reason}); write it again") from error


def _contrast_csv(path: Path) -> Iterator[Row]:
    return csv_rows(path, check_columns)


def _contrast_parquet(path: Path) -> Iterator[Row]:
    return parquet_rows(path, check_columns)


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _contrast_csv,
    ".parquet": _contrast_parquet,
}
"""Extension -> how such a file is read."""


def decoded(path: Path) -> str:
    """The text of a file, without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path} line {line}: is not UTF-8; save the file as UTF-8") from None


def _json(text: str, where: str, *, several: bool = False) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where} line {error.lineno}" if several else where
        lines = "; JSON lines need the extension .jsonl" if several and error.msg == "Extra data" else ""
        raise InputError(f"{place}: broken JSON at column {error.colno} ({error.msg}){lines}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where}: JSON that cannot be read ({error}); write plain rows of texts") from None
