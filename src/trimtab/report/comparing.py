"""Headline tables of several runs, merged: what each says of what all of them measured.

Whether two figures differ is told by the interval of their difference, put together from the intervals of both (MOVER,
Zou and Donner 2008): for d = a - b, from d - sqrt((a - a_low)^2 + (b_high - b)^2) to d + sqrt((a_high - a)^2 +
(b - b_low)^2). It takes the two as independent; runs over the same prompts are not, so it errs on the side of caution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.errors import InputError
from trimtab.report.page.blocks import Column, Measured, Row, Table

if TYPE_CHECKING:
    from trimtab.report.page.blocks import Cell, RunReport

RUN = "run of the row"
"""Key of the column that says which run a row comes from."""
_Key = tuple[str, int]


@dataclass(frozen=True)
class Difference:
    """What changed from one run to another in one figure.

    Attributes:
        label: Of the row.
        column: What was measured.
        before: In the first run.
        after: In the second run.
        low: Lower end of the interval of after - before; None where either has no interval.
        high: Its upper end.
    """

    label: str
    column: Column
    before: float
    after: float
    low: float | None
    high: float | None

    @property
    def exceeds(self) -> bool | None:
        """Whether the interval leaves out zero; None where there is none."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    @property
    def change(self) -> str:
        """`better`, `worse`, or which way it went where neither end is wanted."""
        up = self.after > self.before
        if self.column.better is None:
            return "higher" if up else "lower"
        return "better" if up == (self.column.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        table: A row for each label and run; its first column says which run.
        differences: Figure by figure, of two runs; empty for more.
    """

    table: Table
    differences: tuple[Difference, ...]


def compare(reports: Sequence[RunReport]) -> Comparison:
    """Merge the headline tables of runs: their rows, label by label, and the columns that all of them have.

    Args:
        reports: At least two, of different names.

    Raises:
        InputError: Fewer than two, one of them has no table, or they have no column in common.
    """
    if len(reports) < 2:
        raise InputError("one run has nothing to be compared with; give at least two")
    for report in reports:
        if not report.tables:
            raise InputError(f"{report.name}: its summary has no table; compare runs that have one")
    heads = [report.tables[0] for report in reports]
    columns = [
        column for column in heads[0].columns
        if all(column.key in {other.key for other in head.columns} for head in heads)
    ]  # fmt: skip
    if not columns:
        measured = "; ".join(
            f"{report.name} measured {', '.join(column.label for column in head.columns) or 'nothing'}"
            for report, head in zip(reports, heads, strict=True)
        )
        raise InputError(f"these runs have no column in common ({measured}); compare runs of one protocol")
    found = [_by_label(head) for head in heads]
    rows = [
        Row(key[0], {RUN: report.name, **{column.key: of[key].values.get(column.key) for column in columns}})
        for key in dict.fromkeys(key for rows in found for key in rows)
        for report, of in zip(reports, found, strict=True)
        if key in of
    ]
    table = Table("compared", "All runs side by side", "", (Column(RUN, "run"), *columns), tuple(rows))
    differences = _differences(found[0], found[1], columns) if len(reports) == 2 else ()
    return Comparison(table, differences)


def _by_label(table: Table) -> dict[_Key, Row]:
    """Rows by their label, and by how many of that label stand above them."""
    seen: dict[str, int] = {}
    found = {}
    for row in table.rows:
        place = seen[row.label] = seen.get(row.label, -1) + 1
        found[row.label, place] = row
    return found


def _differences(
    before: dict[_Key, Row], after: dict[_Key, Row], columns: Sequence[Column]
) -> tuple[Difference, ...]:  # fmt: skip
    pairs = [(key, column) for key in before if key in after for column in columns]
    found = (
        _difference(key[0], column, before[key].values.get(column.key), after[key].values.get(column.key))
        for key, column in pairs
    )
    return tuple(one for one in found if one is not None)


def _difference(label: str, column: Column, one: Cell, other: Cell) -> Difference | None:
    if not isinstance(one, Measured) or not isinstance(other, Measured):
        return None
    low, high = interval(one, other)
    return Difference(label, column, one.value, other.value, low, high)


def interval(before: Measured, after: Measured) -> tuple[float | None, float | None]:
    """The interval of after - before; (None, None) where either has none."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None, None
    change = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return change - down, change + up
