"""Contrast pairs from the Hugging Face Hub, through the `datasets` package of the `hub` extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.data.read import Row
from trimtab.data.validate import check_columns
from trimtab.errors import InputError, MissingExtraError, NetworkError

PREFIX = "hub:"
"""What a source on the Hub begins with: `hub:owner/name` or `hub:owner/name:split`."""

_ABSENT = (
    "DatasetNotFoundError",
    "RepositoryNotFoundError",
    "GatedRepoError",
    "DataFilesNotFoundError",
    "RemoteEntryNotFoundError",
)
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


def hub_file(name: str, file: str) -> Path:
    """A file of a data set on the Hub, fetched once and kept where huggingface_hub keeps files.

    Args:
        name: `owner/name` of the data set.
        file: Its path there.

    Raises:
        NetworkError: The Hub cannot be reached.
        InputError: There is no such data set or file, or it is not open to you.
    """
    from huggingface_hub import hf_hub_download

    where = f"{PREFIX}{name}/{file}"
    try:
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except Exception as error:
        raise _explained(error, where) from error


def _load(name: str, split: str, where: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("reading pairs from the Hub", "datasets", "hub") from error
    try:
        return load_dataset(name, split=split)
    except Exception as error:
        raise _explained(error, where) from error


def _explained(error: Exception, where: str) -> Exception:
    """What a user should be told of a failure; the failure itself where it is no fault of theirs or of the network."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = " ".join(str(error).split())
    if kinds.intersection(_ABSENT):
        return InputError(f"{where}: no such data set, or it is not open to you ({reason})")
    if isinstance(error, (ConnectionError, TimeoutError)) or kinds.intersection(_UNREACHED):
        return NetworkError(f"{where}: the Hub cannot be reached ({reason}); try again or give a file")
    if isinstance(error, ValueError):
        return InputError(f"{where}: cannot be read ({reason})")
    return error
