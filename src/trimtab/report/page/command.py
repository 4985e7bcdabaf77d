"""A command line as it may be shown to others: without the folders of whoever typed it, and without their addresses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_MORE = "\N{HORIZONTAL ELLIPSIS}"
_LOCATION = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<address>[^\s,;\"']*)"
    r"|(?<![^=,:;@\"'\s\[({])(?P<path>(?:~[\w.\-]*|[A-Za-z]:)?[\\/](?=[^\s\\/])[^,;\"'\n]*|~[\w.\-]*(?=$|[,;\"'\s]))"
)
_HOME = re.compile(r"^(?:~[^\\/]*|(?:[A-Za-z]:)?[\\/](?:home|Users)[\\/][^\\/]+|/root)(?=[\\/]|$)")


def command_of(info: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The command line of a run as it is shown, None if the run does not say it; and whether that shortened it."""
    command = info.get("command")
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError:  # a quote without its end: no shell wrote it, and none will read it
            words = command.split()
    elif isinstance(command, Sequence) and command:
        words = [*map(str, command)]
    else:
        return None, False
    shown = [shorten(word) for word in words]
    if shown == words:
        return (command if isinstance(command, str) else shlex.join(words)), False
    return " ".join(map(_quoted, shown)), True


def shorten(text: str) -> str:
    """A text whose absolute paths are their last two parts, and whose URLs are scheme and host."""
    return _LOCATION.sub(_short, text)


def is_location(text: str) -> bool:
    """Whether a text begins with an absolute path or a URL."""
    return _LOCATION.match(text) is not None


def _short(found: re.Match[str]) -> str:
    if found["path"] is not None:
        return _path(found["path"])
    scheme, address = found["scheme"], found["address"]
    if scheme.lower() == "file":
        return f"{scheme}://{_path(address)}"
    host = re.split(r"[/?#\\]", address, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}://{re.sub(r':[^:]*$', '', host) if not host.endswith(']') else host}"


def _path(path: str) -> str:
    home = _HOME.match(path)
    rest = path[home.end() :] if home else re.sub(r"^[A-Za-z]:(?=[\\/])", "", path)
    parts = [part for part in re.split(r"[\\/]", rest) if part]
    if len(parts) > 2:
        return "/".join((_MORE, *parts[-2:]))
    return "/".join(("~", *parts)) if home else path


def _quoted(word: str) -> str:
    """A word as a shell takes it; what stands for more than itself needs no quotes of its own."""
    plain = word.replace(_MORE, "_").replace("~", "_")
    return word if shlex.quote(plain) == plain else shlex.quote(word)
