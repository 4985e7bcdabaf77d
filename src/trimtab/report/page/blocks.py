"""The blocks of a `summary.json`, as frozen values: what a page can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower"]
Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: By which rows name their cells.
        label: Its heading.
        better: Which end is wanted, if one is.
        digits: Digits behind the point.
    """

    key: str
    label: str
    better: Better | None = None
    digits: int = 2


@dataclass(frozen=True)
class Measured:
    """A number, with an interval where there is one.

    Attributes:
        value: The number.
        low: Lower end of its interval.
        high: Upper end of its interval.
        n: How many things it was measured on.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


Cell = Measured | str | None


@dataclass(frozen=True)
class Row:
    """A row of a table: its label, and its cells by column."""

    label: str
    values: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """Rows and columns; the first of a run is its headline."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Series:
    """One line of a curve: as many `y` as `x`, and as many ends of intervals, or none."""

    label: str
    x: tuple[float, ...]
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Curve:
    """A line chart; `x` and `y` name its axes."""

    id: str
    title: str
    note: str
    x: str
    y: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Point:
    """A point of a scatter, with an interval along each axis where there is one."""

    label: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


@dataclass(frozen=True)
class Scatter:
    """Points; `x` and `y` name the axes, `better_x` and `better_y` their wanted ends."""

    id: str
    title: str
    note: str
    x: str
    y: str
    better_x: Better | None
    better_y: Better | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Heat:
    """A grid of numbers, None where there is none."""

    id: str
    title: str
    note: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[Numbers, ...]


@dataclass(frozen=True)
class Entry:
    """One text of a sample: who wrote it, at which multiplier, and its ratings by aspect."""

    label: str
    multiplier: float | None
    text: str
    ratings: Mapping[str, float | None]


@dataclass(frozen=True)
class Sample:
    """Texts for one instruction, to be read side by side."""

    concept: str | None
    way: str | None
    instruction: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class TokenText:
    """A text as tokens, each with what the probe read there (None: nothing)."""

    category: str
    tokens: tuple[str, ...]
    values: Numbers


@dataclass(frozen=True)
class Tokens:
    """A vector read as a probe; `negative` and `positive` are its factors, the ends of the scale."""

    label: str
    concept: str | None
    negative: float
    positive: float
    texts: tuple[TokenText, ...]


@dataclass(frozen=True)
class RunReport:
    """All that a page says of one run.

    Attributes:
        name: What the page calls it: its directory.
        protocol: Name of the protocol.
        hash: Of `identity`, in hex.
        identity: All that decides the numbers, as JSON.
        info: Versions, device, command, as JSON.
        title: Of the section.
        question: What the protocol asks, in a sentence.
        tables: The first is the headline.
        curves: Line charts.
        scatters: Points with intervals.
        heats: Grids.
        samples: Texts to read.
        tokens: Vectors read as probes.
        notes: Remarks, one paragraph each.
        counts: How many there were of what, flat.
    """

    name: str
    protocol: str
    hash: str
    identity: Mapping[str, Any]
    info: Mapping[str, Any]
    title: str
    question: str
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    heats: tuple[Heat, ...] = ()
    samples: tuple[Sample, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
