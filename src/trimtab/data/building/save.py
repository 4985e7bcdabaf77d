"""Contrast pairs as files, in every format that `load_pairs` reads; written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from trimtab.data.pairs import ContrastPair
from trimtab.data.validate import OPTIONAL, REQUIRED
from trimtab.errors import InputError

COLUMNS = (*REQUIRED, *OPTIONAL)


def check_out(path: Path, *, overwrite: bool, messages: bool) -> None:
    """Raises an InputError if pairs cannot be saved under a path; called before long work too.

    Args:
        path: The file to be.
        overwrite: Whether it may be there already.
        messages: Whether some prompt is a list of messages, which a cell of a CSV file cannot hold.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--out {path}: the extension {path.suffix!r} is not written; allowed: {', '.join(FORMATS)}")
    if messages and path.suffix.lower() == ".csv":
        raise InputError(
            f"--out {path}: a CSV cell holds no messages; give --place user, or write .jsonl, .json or .parquet"
        )
    if path.is_dir():
        raise InputError(f"--out {path}: is a directory; give a file")
    if path.exists() and not overwrite:
        raise InputError(f"--out {path}: exists already; choose another, or pass --overwrite")
    above = next(folder for folder in path.resolve().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {path}: {above} is no folder that may be written; choose another")


def pair_bytes(pairs: Sequence[ContrastPair], path: Path) -> bytes:
    """What a file of these pairs holds; its extension says in which format."""
    rows = [{name: _plain(getattr(pair, name)) for name in COLUMNS} for pair in pairs]
    return FORMATS[path.suffix.lower()](rows)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside it, has it on disk, and renames it.

    Raises:
        InputError: It cannot be written.
    """
    temporary = path.parent / f".trimtab-{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}); choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return f"{json.dumps(rows, ensure_ascii=False, indent=1)}\n".encode()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([row[name] for name in COLUMNS] for row in rows)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), content)
    return content.getvalue()


FORMATS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""Extension -> how such a file is written."""
