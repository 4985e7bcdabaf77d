"""How many bytes of HTML each part of a run may fill, and what is cut so that nothing outgrows a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from markupsafe import escape

from trimtab.report.page.blocks import RunReport
from trimtab.report.page.numbers import counted, whole

LARGEST = 5_000_000
"""Bytes that a page stays below."""
_NOTES, _NOTE, _COUNTS, _HEADING = 40, 2_000, 60, 500
"""Notes, characters of one, counts, and characters of a title, a question or a name that a page shows."""

T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """Bytes that the parts of one run may fill.

    Attributes:
        samples: Texts side by side.
        tokens: Texts read by a probe.
        heats: Heat maps, all together.
        tables: Tables, all together; and again the overview's.
        figures: Curves and scatters with their numbers, all together.
        identity: What the hash covers; and again what it does not.
    """

    samples: int
    tokens: int
    heats: int
    tables: int
    figures: int
    identity: int


ROOMS = (
    Room(400_000, 400_000, 1_200_000, 1_000_000, 1_200_000, 100_000),
    Room(150_000, 150_000, 600_000, 600_000, 1_000_000, 60_000),
    Room(50_000, 50_000, 250_000, 300_000, 600_000, 30_000),
    Room(15_000, 15_000, 100_000, 150_000, 300_000, 15_000),
    Room(0, 0, 40_000, 60_000, 150_000, 8_000),
    Room(0, 0, 10_000, 20_000, 40_000, 4_000),
    Room(0, 0, 0, 8_000, 0, 2_000),
)
"""From the most to the least; every run of a page has the same, the first with which the page is small enough."""


def sized(text: str) -> int:
    """Bytes of a text in HTML."""
    return len(str(escape(text)).encode("utf-8", errors="backslashreplace"))


def shared(items: Sequence[T], budget: int, fit: Callable[[T, int], tuple[T, int]]) -> Iterator[T]:
    """Each item as `fit` makes it for its share of the bytes; what one does not use is there for those behind it."""
    for k, item in enumerate(items):
        fitted, size = fit(item, budget // (len(items) - k))
        budget = max(0, budget - size)
        yield fitted


def cut(text: str, most: int) -> str:
    """A text, cut behind so many characters; the rest is counted."""
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}\N{HORIZONTAL ELLIPSIS} [{whole(more)} more characters]"


def bounded(report: RunReport) -> RunReport:
    """A run whose headings, notes and counts are no longer than a page can bear."""
    notes = [cut(note, _NOTE) for note in report.notes[:_NOTES]]
    if more := max(0, len(report.notes) - _NOTES) + max(0, len(report.counts) - _COUNTS):
        notes.append(f"{counted(more, 'more note or count is', 'more notes and counts are')} in summary.json.")
    return replace(
        report,
        name=cut(report.name, _HEADING),
        protocol=cut(report.protocol, _HEADING),
        title=cut(report.title, _HEADING),
        question=cut(report.question, _HEADING),
        notes=tuple(notes),
        counts=dict([(cut(key, _HEADING), value) for key, value in report.counts.items()][:_COUNTS]),
    )
