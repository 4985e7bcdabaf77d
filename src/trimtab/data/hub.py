"""Contrast pairs from the Hugging Face Hub, through the `datasets` package of the `hub` extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimtab.data.read import Row
from trimtab.data.validate import check_columns
from trimtab.errors import InputError, MissingExtraError, NetworkError

PREFIX = "hub:"
"""What a source on the Hub begins with: `hub:owner/name` or `hub:owner/name:split`."""

_ABSENT = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError", "DataFilesNotFoundError")
_UNREACHED = ("HfHubHTTPError", "HTTPError", "LocalEntryNotFoundError", "RequestException", "TransportError")


def read_hub(source: str) -> Iterator[Row]:
    """Reads the rows of a data set on the Hub.

    Args:
        source: `hub:owner/name`, with `:split` behind it for another split than "train".

    Yields:
        Its rows, unchecked.

    Raises:
        MissingExtraError: `datasets` is not installed.
        NetworkError: The Hub cannot be reached.
        InputError: The source is no Hub id, or there is no such data set, split or column.
    """
    name, _, split = source.removeprefix(PREFIX).partition(":")
    if name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"{source!r} names no data set of the Hub; write hub:owner/name or hub:owner/name:split")
    split = split or "train"
    where = f"{PREFIX}{name}:{split}"
    rows = _load(name, split, where)
    check_columns(list(rows.column_names), where)
    for number, value in enumerate(rows, 1):
        yield Row(f"{where} row {number}", value)


def _load(name: str, split: str, where: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("reading pairs from the Hub", "datasets", "hub") from error
    try:
        return load_dataset(name, split=split)
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        reason = " ".join(str(error).split())
        if kinds.intersection(_ABSENT):
            raise InputError(f"{where}: no such data set, or it is not open to you ({reason})") from error
        if isinstance(error, (ConnectionError, TimeoutError)) or kinds.intersection(_UNREACHED):
            raise NetworkError(f"{where}: the Hub cannot be reached ({reason}); try again or give a file") from error
        if isinstance(error, ValueError):
            raise InputError(f"{where}: cannot be read ({reason})") from error
        raise
