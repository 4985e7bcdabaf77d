"""A page's file: written whole, and never in place of another file unless that is asked for."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from trimtab.errors import InputError


def check_page(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if no page may be written at `path`; called before the work too."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; give --out the name of a file, such as {path / 'report.html'}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another --out, or replace it with --overwrite")


def save_page(html: str, path: Path, *, overwrite: bool = False) -> int:
    """Write a page, first under another name beside it; its directory is made.

    Returns:
        Its size in bytes.

    Raises:
        InputError: `check_page` refuses the path, or it cannot be written.
    """
    check_page(path, overwrite=overwrite)
    content = html.encode("utf-8", errors="backslashreplace")
    temporary = path.parent / f".trimtab-{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(content)
