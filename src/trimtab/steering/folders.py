"""Folders that trimtab saves: whole or not at all, and never in place of something that is not its own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from trimtab.errors import InputError

CONFIG_NAME = "steering_config.json"
TENSORS_NAME = "steering.safetensors"
CARD_NAME = "README.md"
BASELINE_NAME = "baseline.json"
ADAPTER_CONFIG_NAME, ADAPTER_NAME = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's own names, by which its readers find them."""
WEIGHTS_NAME = "weights.safetensors"
SAVED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        CONFIG_NAME: frozenset({CONFIG_NAME, TENSORS_NAME, CARD_NAME}),
        BASELINE_NAME: frozenset({BASELINE_NAME, ADAPTER_CONFIG_NAME, ADAPTER_NAME, WEIGHTS_NAME}),
    }
)
"""By the file that tells what a folder is, all the files that such a folder may hold."""
_TRIES = 100
"""How often a save tries to rename while other processes save to the same path."""


def text_bytes(text: str) -> bytes:
    """A text as a file holds it; a lone surrogate (a file name that is not UTF-8) becomes its JSON escape."""
    return text.encode("utf-8", errors="backslashreplace")


def write_folder(path: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> Path:
    """Write files as a directory: first under a temporary name beside it, then renamed.

    A link is followed: what it points to is written. Saves by several processes to one path leave one folder, whole.

    Args:
        path: Where.
        files: Contents by name; one of the names is a key of `SAVED`.
        overwrite: Whether a folder that trimtab saved may be replaced.

    Raises:
        InputError: `check_free` refuses the path, or it cannot be written.
    """
    check_free(path, overwrite=overwrite)
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.parent / f".trimtab-{uuid4().hex}"
        try:
            finished = staging / "finished"
            finished.mkdir(parents=True)
            for name, content in files.items():
                (finished / name).write_bytes(content)
            _put(finished, target, staging / "replaced", overwrite=overwrite)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); choose another --out") from error
    return path


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if nothing may be saved at `path`; called before long work too."""
    try:
        target, problem = path.resolve(), None
        for _ in range(_TRIES):
            seen = _identity(target)
            problem = _obstacle(path, target, overwrite=overwrite)
            if problem is None or _identity(target) == seen:  # else another process swaps it at this moment: look again
                break
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null character
        problem = f"cannot write {str(path)!r} ({error}); choose another --out"
    if problem is not None:
        raise InputError(problem)


def _identity(target: Path) -> tuple[int, ...] | None:
    """What tells a folder from another one that takes its place; None where nothing is."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _obstacle(path: Path, target: Path, *, overwrite: bool) -> str | None:
    """Why nothing may be saved at `target`, in one line; None if it may."""
    if not target.exists():
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return f"cannot write {path}: {above} is no folder that may be written; choose another --out"
        return None
    if not overwrite:
        return f"{path} exists already; choose another --out or pass --overwrite (overwrite=True)"
    try:
        names = {child.name for child in target.iterdir()}
    except (NotADirectoryError, FileNotFoundError):  # a file, or gone by now
        names = {""}
    own: set[str] = set().union(*(files for name, files in SAVED.items() if name in names))
    if names and not own:
        return f"{path} is not a saved vector and will not be overwritten; choose another --out"
    foreign = sorted(names - own)
    if foreign:
        return (
            f"{path} also holds {', '.join(foreign)}, which overwriting would delete; move it or choose another --out"
        )
    if Path.cwd().is_relative_to(target):
        return f"{path} is the folder you are in, which cannot be replaced; leave it first or choose another --out"
    return None


def _put(finished: Path, target: Path, aside: Path, *, overwrite: bool) -> None:
    """Rename `finished` to `target`; what stood there waits under `aside` and comes back if that fails."""
    for _ in range(_TRIES):
        try:
            if target.exists():
                check_free(target, overwrite=overwrite)
                shutil.rmtree(aside, ignore_errors=True)
                target.rename(aside)
            finished.rename(target)
            return
        except BaseException as error:
            if aside.exists() and not target.exists():
                aside.rename(target)
            # Another process was faster: it took the old folder away or put its own there.
            if not isinstance(error, OSError) or error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise InputError(f"{target} is being written by other processes; choose another --out")
