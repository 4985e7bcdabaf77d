"""The answers of a build, on disk as soon as they are written: killed at any moment, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trimtab.data.building.save import write_whole
from trimtab.errors import InputError

SCHEMA = 1
CONFIG, ANSWERS, LOCK, REPLIES = "config.json", "answers.jsonl", ".lock", "replies"
"""What the folder holds: the last is an endpoint's cache, which keeps the replies of a batch that was not finished."""


@dataclass(frozen=True)
class Answer:
    """What a writer wrote.

    Attributes:
        text: The answer.
        ended: Whether it came to an end by itself; None where the writer does not tell.
    """

    text: str
    ended: bool | None = None


def partial_folder(out: Path) -> Path:
    """The folder beside a file to be that keeps its answers until it is written."""
    return out.with_name(f"{out.name}.partial")


class AnswerLog:
    """Answers by the id of their ask; appended in whole lines and flushed to the disk.

    A last line that was torn by a kill is cut off.

    Args:
        folder: The folder of the log.
        readonly: Whether nothing is to be changed there, not even a torn line.

    Raises:
        InputError: A line other than a torn last one is no answer.
    """

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self._path = folder / ANSWERS
        self._answers: dict[str, Answer] = {}
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content) and not readonly:
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            name, answer = _read_line(line, f"{self._path} line {number}")
            self._answers[name] = answer

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, name: str) -> bool:
        return name in self._answers

    def __getitem__(self, name: str) -> Answer:
        return self._answers[name]

    def append(self, answers: Mapping[str, Answer]) -> None:
        """Writes the answers that are not there yet; they are on disk when it returns."""
        new = {name: answer for name, answer in answers.items() if name not in self._answers}
        rows = [{"id": name, "text": answer.text, "ended": answer.ended} for name, answer in new.items()]
        with self._path.open("ab") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        self._answers.update(new)


@contextmanager
def open_answers(folder: Path, identity: Mapping[str, Any]) -> Iterator[AnswerLog]:
    """The log of a folder: a new one, or one that was begun by the same writer with the same settings.

    Args:
        folder: Made if it is not there.
        identity: All that decides an answer apart from what is asked, as JSON.

    Raises:
        InputError: The folder is another thing's, or holds answers of another writer or of other settings; another
            process writes it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is in the way: the answers are kept in a folder of that name; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another process builds these pairs; wait for it, or choose another --out"
        ) from None
    try:
        _check_identity(folder, identity)
        yield AnswerLog(folder)
    finally:
        lock.release()


def remove_answers(folder: Path) -> None:
    """Removes the folder of a build that is done; what else lies in it stays."""
    for name in (CONFIG, ANSWERS, LOCK):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / REPLIES, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / CONFIG
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    name = hashlib.sha256(text.encode()).hexdigest()
    if not path.exists():
        if (folder / ANSWERS).exists():
            raise InputError(f"{folder}: holds answers without {CONFIG}, so nobody knows whose; delete the folder")
        content = {"schema": SCHEMA, "hash": name, "identity": identity}
        write_whole(path, f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode("ascii"))
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same, there = found["hash"] == name and found["schema"] == SCHEMA, found["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); delete {folder} to begin anew") from error
    if not same:
        changed = "; ".join(_differences(there, json.loads(text))) or "another version of trimtab"
        raise InputError(
            f"{folder} holds answers of a build with other settings ({changed}); give those again to go on, "
            "delete the folder to begin anew, or choose another --out"
        )


def _differences(there: Any, here: Mapping[str, Any]) -> list[str]:
    if not isinstance(there, Mapping):
        return []
    keys = sorted({*there, *here})
    return [f"{key}: {there.get(key)!r} then, {here.get(key)!r} now" for key in keys if there.get(key) != here.get(key)]


def _read_line(line: bytes, where: str) -> tuple[str, Answer]:
    try:
        row = json.loads(line)
        return _checked(row["id"], row["text"], row["ended"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where}: is no answer, so the file is damaged; delete its folder to begin anew") from None


def _checked(name: Any, text: Any, ended: Any) -> tuple[str, Answer]:
    if not isinstance(name, str) or not isinstance(text, str) or not (ended is None or isinstance(ended, bool)):
        raise TypeError
    return name, Answer(text, ended)
