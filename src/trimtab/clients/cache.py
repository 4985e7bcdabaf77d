"""Replies on disk, one JSON file each, under the hash of what was asked: nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from trimtab.errors import InputError

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the files."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered.

    Attributes:
        text: The text; empty where it gave none.
        finish: Why it ended, in the endpoint's words (`stop`, `length`, `content_filter`).
        model: The model that answered, by the endpoint's account.
        input_tokens: Tokens it counted in the request.
        output_tokens: Tokens it counted in the reply.
    """

    text: str
    finish: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def key_of(content: Mapping[str, Any]) -> str:
    """sha256 (hex) over the canonical JSON of a request: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class ReplyCache:
    """A folder of replies: `ab/abcd....json`, each with the request it answers, so that it can be read by people.

    A file is written under a temporary name and renamed, so a kill leaves whole files only; several processes may share
    the folder. A file that cannot be read counts as absent, and is written anew.

    Args:
        folder: Where; it is made when the first reply comes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, request: Mapping[str, Any]) -> Reply | None:
        """The reply to a request, or None.

        Args:
            request: All that decides the reply, as JSON.

        Raises:
            InputError: The folder cannot be read.
        """
        path = self._path(key_of(request))
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"cannot read the cache {self.folder} ({error}); give another folder") from error
        try:
            found = json.loads(content)
            reply = Reply(**found["reply"])
            is_whole = isinstance(reply.text, str) and found["schema"] == SCHEMA and found["request"] == request
        except (ValueError, TypeError, KeyError):
            is_whole, reply = False, None
        if not is_whole:
            logger.warning("%s holds no reply that can be read; it is asked for again", path)
            return None
        return reply

    def put(self, request: Mapping[str, Any], reply: Reply) -> None:
        """Keep a reply; it is on disk, whole, when this returns.

        Raises:
            InputError: The folder cannot be written.
        """
        path = self._path(key_of(request))
        temporary = path.with_name(f".{path.stem[:8]}-{uuid4().hex}")
        text = json.dumps({"schema": SCHEMA, "request": request, "reply": asdict(reply)}, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(f"{text}\n".encode())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write the cache {self.folder} ({error}); give another folder") from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
