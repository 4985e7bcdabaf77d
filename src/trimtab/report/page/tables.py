"""Tables as a template shows them: texts of cells, marks of intervals, steps of a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from trimtab.report.page.blocks import Better, Cell, Column, Curve, Measured, Row, Scatter, Table
from trimtab.report.page.numbers import DASH, digits_for, exact, fixed
from trimtab.report.page.palette import STEPS
from trimtab.report.page.room import shared, sized

_MARK = 104
"""Width of an interval's mark in pixels; its dot needs 4 of them at either end."""
_AROUND_CELL, _AROUND_ROW, _AROUND_HEAD, _AROUND = 100, 40, 190, 400
"""Bytes of HTML around a cell's, a row's, a heading's and a table's own texts, about."""


@dataclass(frozen=True)
class CellView:
    """A cell: its text, the interval's text, what a pointer is told, a mark, and whether it is a number."""

    text: str
    interval: str = ""
    title: str = ""
    mark: Markup | None = None
    number: bool = False
    value: float | None = None


@dataclass(frozen=True)
class HeadView:
    """A column's heading, and whether its cells are numbers."""

    label: str
    better: Better | None
    number: bool


@dataclass(frozen=True)
class TableView:
    """A table: headings, rows of a label and cells, and how many rows had no room."""

    title: str
    note: str
    heads: tuple[HeadView, ...]
    rows: tuple[tuple[str, tuple[CellView, ...]], ...]
    intervals: bool
    left_out: int = 0


def view_table(table: Table) -> TableView:
    """A table as it is shown."""
    columns = []
    for column in table.columns:
        cells = [row.values.get(column.key) for row in table.rows]
        columns.append(_cells(cells, column.digits))
    heads = tuple(
        HeadView(column.label, column.better, any(cell.number for cell in cells))
        for column, cells in zip(table.columns, columns, strict=True)
    )
    rows = tuple((row.label, tuple(cells[k] for cells in columns)) for k, row in enumerate(table.rows))
    return TableView(
        table.title, table.note, heads, rows, any(cell.interval for cells in columns for cell in cells)
    )  # fmt: skip


def fit_tables(views: Sequence[TableView], budget: int) -> list[TableView]:
    """Tables with as many of their first rows as go into so many bytes of HTML; what one leaves, others may take."""
    return list(shared(views, budget, fit_table))


def fit_table(view: TableView, budget: int) -> tuple[TableView, int]:
    """A table with as many of its first rows as go into so many bytes of HTML, and the bytes that it takes."""
    size = _AROUND + sized(view.title) + sized(view.note)
    size += sum(_AROUND_HEAD + sized(head.label) for head in view.heads)
    kept = 0
    for label, cells in view.rows:
        more = _AROUND_ROW + sized(label) + sum(map(_cell_bytes, cells))
        if size + more > budget:
            break
        size, kept = size + more, kept + 1
    return replace(view, rows=view.rows[:kept], left_out=view.left_out + len(view.rows) - kept), size


def _cell_bytes(cell: CellView) -> int:
    return _AROUND_CELL + sized(cell.text) + sized(cell.interval) + sized(cell.title) + len(cell.mark or "")


def _cells(cells: Sequence[Cell], digits: int) -> list[CellView]:
    """The cells of a column; marks share a scale, which spans all their intervals."""
    measured = [cell for cell in cells if isinstance(cell, Measured)]
    ends = [end for cell in measured for end in (cell.value, cell.low, cell.high) if end is not None]
    scale = (min(ends), max(ends)) if ends else (0.0, 0.0)
    marked = len(measured) > 1 and scale[0] < scale[1] and any(cell.low is not None for cell in measured)
    return [_cell(cell, digits, scale if marked else None) for cell in cells]


def _cell(cell: Cell, digits: int, scale: tuple[float, float] | None) -> CellView:
    if cell is None:
        return CellView(DASH, title="no value", number=True)
    if isinstance(cell, str):
        return CellView(cell)
    title, interval = exact(cell.value), ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{fixed(cell.low, digits)}, {fixed(cell.high, digits)}]"
        title += f", interval {exact(cell.low)} to {exact(cell.high)}"
    if cell.n is not None:
        title += f", n = {cell.n}"
    mark = None if scale is None else _mark(cell, scale)
    return CellView(fixed(cell.value, digits), interval, title, mark, True, cell.value)


def _mark(cell: Measured, scale: tuple[float, float]) -> Markup:
    """A dot on a rule, with a line as long as the interval."""

    def at(value: float) -> str:
        return f"{4 + (_MARK - 8) * (value - scale[0]) / (scale[1] - scale[0]):.1f}"

    line = ""
    if cell.low is not None and cell.high is not None:
        line = f'<path class="span" d="M{at(cell.low)} 5H{at(cell.high)}"/>'
    return Markup(  # numbers only
        f'<svg class="mark" width="{_MARK}" height="10" viewBox="0 0 {_MARK} 10" aria-hidden="true">'
        f'<path class="rule" d="M0 5H{_MARK}"/>{line}<circle cx="{at(cell.value)}" cy="5" r="3"/></svg>'
    )


def curve_table(curve: Curve) -> TableView:
    """The numbers of a curve: a row for each x, a column a series."""
    xs = sorted({x for series in curve.series for x in series.x})
    columns, values = [], {x: {} for x in xs}
    for k, series in enumerate(curve.series):
        present = [y for y in series.y if y is not None]
        columns.append(Column(str(k), series.label, digits=max(2, digits_for(present)) if present else 2))
        for place, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            ends = (
                (None, None) if series.low is None or series.high is None else (series.low[place], series.high[place])
            )
            whole = None not in ends
            values[x][str(k)] = None if y is None else Measured(y, *(ends if whole else (None, None)))
    table = Table(curve.id, curve.title, "", tuple(columns), tuple(Row(exact(x), values[x]) for x in xs))
    return _without_marks(table, f"{curve.x}: rows; {curve.y}: cells")


def scatter_table(scatter: Scatter) -> TableView:
    """The numbers of a scatter: a row a point."""
    across, along = ([point.x for point in scatter.points], [point.y for point in scatter.points])
    columns = (
        Column("x", scatter.x, scatter.better_x, max(2, digits_for(across))),
        Column("y", scatter.y, scatter.better_y, max(2, digits_for(along))),
    )
    rows = tuple(
        Row(p.label, {"x": Measured(p.x, p.x_low, p.x_high), "y": Measured(p.y, p.y_low, p.y_high)})
        for p in scatter.points
    )
    return _without_marks(Table(scatter.id, scatter.title, "", columns, rows), "")


def _without_marks(table: Table, note: str) -> TableView:
    view = view_table(table)
    rows = tuple(
        (label, tuple(CellView(cell.text, cell.interval, cell.title, None, cell.number, cell.value) for cell in cells))
        for label, cells in view.rows
    )
    return TableView(view.title, note, view.heads, rows, view.intervals)


def step(value: float, low: float, high: float) -> int:
    """Which of the `STEPS` colours a value has on a scale from low to high; the middle where both are one."""
    if low == high:
        return STEPS // 2
    share = (value - low) / (high - low)
    return round(min(1.0, max(0.0, share)) * (STEPS - 1))
