"""What the commands print: results to stdout, everything else to stderr."""

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or another program, where no terminal says how wide it is."""


def stdout() -> Console:
    """A console on stdout as it is now (tests and pipes replace it)."""
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def stderr() -> Console:
    """A console on stderr as it is now."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def say(*lines: str | Text) -> None:
    """Prints lines of a result to stdout: strings to the letter, `Text` in its colours where a terminal shows them."""
    for line in lines:
        if isinstance(line, str):
            print(line)
        else:
            stdout().print(line)


def emit_json(result: Mapping[str, Any]) -> None:
    """Prints a result as one line of JSON to stdout; numbers that JSON lacks (NaN, infinities) become null."""
    print(json.dumps(_finite(result), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(entry) for entry in value]
    return value


def fail(message: str) -> None:
    """Prints the one line of an error to stderr, whatever line breaks the message carried."""
    print(f"trimtab: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Text with line breaks and other control characters made harmless."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table to stdout, the cells taken literally."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console = stdout()
    console.print(table, soft_wrap=False)


def number(value: float | None) -> str:
    """A number for people: four significant digits, a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


@contextmanager
def library_logs() -> Iterator[None]:
    """Sends the library's warnings to stderr, one line each, for the time of one command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("trimtab: note: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("trimtab")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
