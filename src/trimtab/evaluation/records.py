"""A run: a directory that holds what was asked and all that came of it, and that can be gone on with at any time.

`config.json` says what decides the numbers, with a hash over it; `*.jsonl` are logs that are only ever appended to;
`summary.json` is derived from them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from trimtab.errors import InputError

SCHEMA = 1
"""Of the directory's format."""
CONFIG, SUMMARY, LOCK = "config.json", "summary.json", ".lock"
STAGED = ".trimtab-"
"""What the name of a file that is being written begins with."""
LOGS = ("generations", "ratings", "measures", "items")
"""The logs that a run may have."""

JSONRow = dict[str, Any]


def canonical(value: Any) -> str:
    """JSON of which there is one for a value: sorted keys, no spaces.

    Raises:
        InputError: Something that JSON has not, such as NaN.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"what decides a run cannot be written as JSON: {error}") from error


def digest(value: Any) -> str:
    """sha256 (hex) over the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode("utf-8", errors="backslashreplace")).hexdigest()


def finite(number: float) -> float | None:
    """A number as a log takes it: None where it is not finite, as those of a model that was steered too far may be."""
    return number if math.isfinite(number) else None


class Log:
    """Rows of JSON, appended to a file in whole lines.

    A last line that was torn by a kill is cut off when the log is opened for writing, and passed over when it is read.

    Args:
        path: The file; it need not exist.
        writable: Whether rows can be appended.

    Attributes:
        rows: All rows, in the order in which they were written.

    Raises:
        InputError: A line other than the last is no JSON object.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self._path, self._writable = path, writable
        self.rows: list[JSONRow] = []
        self._read()

    def _read(self) -> None:
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if self._writable and len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{self._path} line {number} is no JSON object; the run is damaged: start a new --out")
            self.rows.append(row)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and have them on disk before it returns."""
        if not self._writable:
            raise ValueError("a log that is only read was written to")
        new = [dict(row) for row in rows]
        if not new:
            return
        text = "".join(f"{json.dumps(row, allow_nan=False, ensure_ascii=False)}\n" for row in new)
        with self._path.open("ab") as file:
            file.write(text.encode("utf-8", errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        self.rows += new

    def keys(self, *columns: str) -> set[tuple[Any, ...]]:
        """The values of these columns, a tuple a row: what is there already."""
        return {tuple(row.get(column) for column in columns) for row in self.rows}


class Run:
    """A run's directory.

    Args:
        path: The directory.
        config: What `config.json` holds.
        writable: Whether its logs can be appended to.

    Attributes:
        path: The directory.
        identity: All that decides the numbers.
        protocol: Name of the protocol.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, writable: bool) -> None:
        self.path, self.config, self._writable = path, config, writable
        self.identity: Mapping[str, Any] = config["identity"]
        self.protocol: str = config["protocol"]
        self._logs: dict[str, Log] = {}

    def log(self, name: str) -> Log:
        """The log of a name of `LOGS`."""
        if name not in LOGS:
            raise ValueError(f"there is no log {name!r}")
        if name not in self._logs:
            self._logs[name] = Log(self.path / f"{name}.jsonl", writable=self._writable)
        return self._logs[name]

    @property
    def summary(self) -> Mapping[str, Any]:
        """What `finish` wrote.

        Raises:
            InputError: The run is not finished.
        """
        path = self.path / SUMMARY
        if not path.exists():
            raise InputError(f"{self.path}: the run is not finished; start the same `trimtab eval` again to go on")
        return _read_json(path)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        _write_json(self.path / SUMMARY, summary)

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """A run to look at.

        Raises:
            InputError: It is no run, or of another schema.
        """
        path = Path(path)
        return cls(path, _read_config(path), writable=False)


@contextmanager
def open_run(
    path: str | Path, protocol: str, identity: Mapping[str, Any], info: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[Run]:
    """A run to write: a new one, or one of the same identity that is gone on with.

    A new run that fails before anything is on record is taken away again.

    Args:
        path: The directory; it is made.
        protocol: Name of the protocol.
        identity: All that decides the numbers, as JSON.
        info: What else should be known: versions, device, command.
        overwrite: Begin anew where a run is there already; only a run's own files are removed.

    Raises:
        InputError: The directory holds something else, or a run of another identity; another process writes it.
    """
    path, name = Path(path), digest(identity)
    _check_free(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    lock, is_new, has_failed = FileLock(path / LOCK), False, True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path}: another process writes this run; wait for it, or choose another --out") from None
    try:
        _remove_staged(path)
        if overwrite:
            _clear(path)
        is_new = not (path / CONFIG).exists()
        if is_new:
            found = {"schema": SCHEMA, "protocol": protocol, "hash": name, "identity": identity, "info": info}
            _write_json(path / CONFIG, found)
        else:
            found = _read_config(path)
            if found["hash"] != name or found["protocol"] != protocol:
                raise InputError(_difference(path, found, protocol, identity))
        yield Run(path, found, writable=True)
        has_failed = False
    finally:
        is_empty = is_new and has_failed and not any(_has_rows(path / f"{each}.jsonl") for each in LOGS)
        if is_empty:
            _clear(path)
        lock.release()
        if is_empty:
            (path / LOCK).unlink(missing_ok=True)
            for folder in made:
                if any(folder.iterdir()):
                    break
                folder.rmdir()


def _check_free(path: Path) -> None:
    """Raise InputError where a path is no directory, or one that holds something other than a run.

    Models have a `config.json` too: what is no run's is never locked, and never overwritten.
    """
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        strange = [name for name in names if name != LOCK and not name.startswith(STAGED)]
        if strange and not _is_run(path):
            raise InputError(f"{path} is a directory with other files ({strange[0]}); choose another --out")
    elif path.exists() or path.is_symlink():
        raise InputError(f"{path} is no directory; choose another --out")


def _is_run(path: Path) -> bool:
    """Whether a run's configuration is there, of whichever schema."""
    if not (path / CONFIG).is_file():
        return False
    return {"schema", "protocol", "identity"} <= _read_json(path / CONFIG).keys()


def _clear(path: Path) -> None:
    """Remove a run's own files, the configuration last: logs without one would be taken for those of another run."""
    for name in (SUMMARY, *(f"{name}.jsonl" for name in LOGS), CONFIG):
        (path / name).unlink(missing_ok=True)


def _remove_staged(path: Path) -> None:
    """Remove what a kill left half written."""
    for staged in path.glob(f"{STAGED}*"):
        if staged.is_file():
            staged.unlink()


def _has_rows(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_config(path: Path) -> JSONRow:
    if not (path / CONFIG).is_file():
        raise InputError(f"{path}: is no run (it has no {CONFIG}); give a directory that `trimtab eval --out` wrote")
    config = _read_json(path / CONFIG)
    if config.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: a run of schema {config.get('schema')!r}, this trimtab reads {SCHEMA}; use a matching version"
        )
    if missing := sorted({"protocol", "hash", "identity", "info"} - config.keys()):
        raise InputError(f"{path / CONFIG}: has no {missing[0]!r}; the run is damaged: start a new --out")
    return config


def _read_json(path: Path) -> JSONRow:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); start a new --out") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; start a new --out")
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.parent / f"{STAGED}{uuid4().hex}"
    try:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        temporary.write_bytes(f"{text}\n".encode("utf-8", errors="backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _difference(path: Path, found: JSONRow, protocol: str, identity: Mapping[str, Any]) -> str:
    """What a run that is there differs in, as an error's one line."""
    if found["protocol"] != protocol:
        what = f"protocol {found['protocol']}, not {protocol}"
    else:
        pairs = list(_unequal(found["identity"], json.loads(canonical(identity)), ""))
        what = "; ".join(pairs[:3]) + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
    return f"{path} holds a run of other settings ({what}); choose another --out, or --overwrite it"


def _unequal(one: Any, other: Any, place: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(one.keys() | other.keys()):
            yield from _unequal(one.get(key), other.get(key), f"{place}.{key}" if place else key)
    elif isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            yield f"{place}: {len(one)} entries there, {len(other)} here"
        else:
            for number, (a, b) in enumerate(zip(one, other, strict=True)):
                yield from _unequal(a, b, f"{place}[{number}]")
    elif one != other:
        yield f"{place}: {_short(one)} there, {_short(other)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
