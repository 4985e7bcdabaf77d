"""`trimtab compare`: the headline tables of several runs side by side."""

import dataclasses
from typing import TYPE_CHECKING, Any

from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, print_table, say
from trimtab.cli.quiet import at_work
from trimtab.cli.report import Runs, read_reports

if TYPE_CHECKING:
    from trimtab.report.comparing import Comparison, Difference
    from trimtab.report.page.blocks import Cell, Column, Table


def compare(runs: Runs, json_output: Json = False) -> None:
    """Print the headline tables of runs side by side; of two runs, say which differences exceed their intervals."""
    with at_work():
        from trimtab.report.comparing import compare as compared

        comparison = compared(read_reports(runs))
    if json_output:
        emit_json(_json(comparison))
        return
    _print_table(comparison.table)
    if len(runs) == 2:
        _print_differences(comparison.differences)


def _json(comparison: "Comparison") -> dict[str, Any]:
    from trimtab.report.comparing import RUN
    from trimtab.report.page.blocks import Measured

    rows = []
    for row in comparison.table.rows:
        values = {
            key: dataclasses.asdict(cell) if isinstance(cell, Measured) else cell for key, cell in row.values.items()
        }
        rows.append({"label": row.label, "run": values.pop(RUN), "values": values})
    columns = [dataclasses.asdict(column) for column in comparison.table.columns if column.key != RUN]
    differences = [
        {**dataclasses.asdict(one), "column": one.column.key, "exceeds": one.exceeds} for one in comparison.differences
    ]
    return {"columns": columns, "rows": rows, "differences": differences}


def _print_table(table: "Table") -> None:
    columns = table.columns
    print_table(
        ("", *(column.label for column in columns)),
        [[row.label, *(_cell(row.values.get(column.key), column) for column in columns)] for row in table.rows],
    )


def _cell(cell: "Cell", column: "Column") -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    text = _fixed(cell.value, column.digits)
    if cell.low is None or cell.high is None:
        return text
    return f"{text} [{_fixed(cell.low, column.digits)},{_fixed(cell.high, column.digits)}]"


def _fixed(value: float | None, digits: int) -> str:
    """As on the page, in the characters of a terminal."""
    from trimtab.report.page.numbers import GROUP, MINUS, fixed

    return fixed(value, digits).replace(MINUS, "-").replace(GROUP, "")


def _print_differences(differences: "tuple[Difference, ...]") -> None:
    beyond = [one for one in differences if one.exceeds]
    within = sum(one.exceeds is False for one in differences)
    unknown = sum(one.exceeds is None for one in differences)
    say("", f"second run against first: {'these' if beyond else 'no'} differences exceed their intervals")
    for one in beyond:
        digits = one.column.digits
        change, low, high = (_fixed(x, digits) for x in (one.after - one.before, one.low, one.high))
        values = f"{_fixed(one.before, digits)} -> {_fixed(one.after, digits)}"
        say(f"  {one.label}, {one.column.label}: {values} ({change} [{low}, {high}]: {one.change})")
    say(
        f"within their intervals: {within} of {len(differences)}"
        + (f"; without an interval: {unknown}" if unknown else "")
    )
