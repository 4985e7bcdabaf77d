"""Heat maps as a template shows them: whole where they are small, else the rows at both ends behind the mean of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.report.page.blocks import Heat
from trimtab.report.page.numbers import DASH, counted, digits_for, exact, fixed, whole
from trimtab.report.page.room import sized
from trimtab.report.page.tables import step

MOST = 60
"""Rows, and columns, of a heat map that is shown whole."""
ENDS = 20
"""Rows, and columns, that are shown of either end of one that is not."""
_AROUND_CELL, _AROUND_ROW, _AROUND = 62, 40, 900
"""Bytes of HTML around a cell's, a row's and a heat map's own texts, about; no number takes more than 12 twice."""
_NUMBER = 24


@dataclass(frozen=True)
class HeatView:
    """A heat map: what is shown of it, and how.

    Attributes:
        heat: All of it.
        columns: Those that are shown.
        rows: A label and (text, class of its ground, exact number) of each cell.
        scale: `heat`, or `turn` where there are both signs.
        ends: Of the scale, in words.
        missing: How many cells of all have no value, in words.
        left_out: What stays in the summary, in words.
    """

    heat: Heat
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]
    scale: str
    ends: tuple[str, ...]
    missing: str
    left_out: str


def view_heat(heat: Heat, ends: int = ENDS) -> HeatView:
    """A heat map as it is shown: from little to much, or away from zero both ways where there are both signs.

    Args:
        heat: The heat map.
        ends: Rows to show of either end, by their means, where not all are shown; below `ENDS`, no more than twice as
            many and the mean are shown of any.
    """
    present = [value for row in heat.values for value in row if value is not None]
    digits = max(1, digits_for(present)) if present else 2
    if present and all(float(value).is_integer() for value in present):
        digits = 0
    low, high = (min(present), max(present)) if present else (0.0, 0.0)
    turns = low < 0 < high
    if turns:
        high = max(-low, high)
        low = -high
    scale = "turn" if turns else "heat"

    def cell(value: float | None) -> tuple[str, str, str]:
        if value is None:
            return DASH, "none", "no value"
        return fixed(value, digits), f"{scale}-{step(value, low, high)}", exact(value)

    columns = _columns(heat)
    rows, left_out = _rows(heat, ends)
    if len(columns) < len(heat.columns):
        every = whole(len(heat.columns))
        left_out += f" Of {every} columns the {len(columns)} with the highest and the lowest means are shown."
    missing = sum(value is None for row in heat.values for value in row)
    return HeatView(
        heat,
        tuple(heat.columns[k] for k in columns),
        tuple((label, tuple(cell(values[k]) for k in columns)) for label, values in rows),
        scale,
        tuple(fixed(end, digits) for end in ((low, 0.0, high) if turns else (low, high))),
        counted(missing, "cell has", "cells have") + " no value" if missing else "",
        left_out.strip(),
    )


def view_heats(heats: Sequence[Heat], budget: int) -> tuple[list[HeatView], int]:
    """The heat maps that fit into so many bytes, with fewer rows where it takes that; and how many do not fit."""
    views = []
    for k, heat in enumerate(heats):
        fitting = _fitting(heat, budget // (len(heats) - k))
        if fitting is not None:
            view = view_heat(heat, fitting)
            budget = max(0, budget - _size(view))
            views.append(view)
    return views, len(heats) - len(views)


def _fitting(heat: Heat, budget: int) -> int | None:
    """The most rows of either end with which a heat map fits; None if not even with one."""
    columns = _columns(heat)
    head = _AROUND + sized(heat.title) + sized(heat.note) + sized(heat.row_label) + sized(heat.column_label)
    head += sum(_AROUND_ROW + sized(heat.columns[k]) for k in columns)
    longest = max(map(sized, heat.rows), default=0)
    row = _AROUND_ROW + longest + len(columns) * (_AROUND_CELL + _NUMBER)
    fit = (budget - head) // row
    if fit >= min(len(heat.rows), MOST):
        return ENDS
    ends = min(ENDS if len(heat.rows) > MOST else ENDS - 1, (fit - 1) // 2)
    return ends if ends > 0 else None


def _size(view: HeatView) -> int:
    cells = sum(len(cells) for _, cells in view.rows) * (_AROUND_CELL + _NUMBER)
    heads = sum(_AROUND_ROW + sized(column) for column in view.columns)
    return _AROUND + sized(view.heat.note) + heads + cells + sum(_AROUND_ROW + sized(label) for label, _ in view.rows)


def _columns(heat: Heat) -> list[int]:
    """Which columns are shown, in their own order."""
    if len(heat.columns) <= MOST:
        return list(range(len(heat.columns)))
    means = [_mean(row[k] for row in heat.values) for k in range(len(heat.columns))]
    ranked = _ranked(means)
    return sorted((*ranked[:ENDS], *ranked[-ENDS:]))


def _rows(heat: Heat, ends: int) -> tuple[Sequence[tuple[str, Sequence[float | None]]], str]:
    """The rows that are shown, and what is said of the others."""
    rows = list(zip(heat.rows, heat.values, strict=True))
    if len(rows) <= (MOST if ends == ENDS else 2 * ends + 1):
        return rows, ""
    ranked = _ranked([_mean(values) for values in heat.values])
    kept = (*ranked[:ends], *ranked[-ends:])
    every = f"mean of all {whole(len(rows))}"
    means = tuple(_mean(row[k] for row in heat.values) for k in range(len(heat.columns)))
    said = (
        f"Behind the mean of all: the {counted(ends, 'row')} with the highest means and the {ends} with the lowest, "
        f"highest first. {counted(len(rows) - len(kept), 'more row stays', 'more rows stay')} in summary.json."
    )
    return [(every, means), *(rows[k] for k in kept)], said


def _ranked(means: Sequence[float | None]) -> list[int]:
    """Places from the highest mean to the lowest; those that have none would say nothing, and stand in the middle."""
    present = [k for k, mean in enumerate(means) if mean is not None]
    present.sort(key=lambda k: (-(means[k] or 0.0), k))
    half = len(present) - len(present) // 2
    return [*present[:half], *(k for k, mean in enumerate(means) if mean is None), *present[half:]]


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
