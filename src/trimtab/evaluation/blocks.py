"""The blocks of a `summary.json`, which a page shows without knowing which protocol they are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.evaluation.statistics import Interval

SCHEMA = 1
"""Of `summary.json`; see docs/design/evaluation.md."""

Block = dict[str, Any]


def summary(protocol: str, title: str, question: str, *, counts: Mapping[str, int], **blocks: Sequence[Any]) -> Block:
    """A summary of lists of blocks: tables, curves, scatters, heats, samples, tokens, notes."""
    kinds = ("tables", "curves", "scatters", "heats", "samples", "tokens", "notes")
    if strange := sorted(set(blocks) - set(kinds)):
        raise ValueError(f"there are no blocks {strange[0]!r}")
    head = {"schema": SCHEMA, "protocol": protocol, "title": title, "question": question}
    return {**head, **{kind: list(blocks.get(kind, ())) for kind in kinds}, "counts": dict(counts)}


def cell(value: Interval | float | None, n: int | None = None) -> Block | None:
    """A number of a table, with its interval where there is one; None where there is no number."""
    if value is None:
        return None
    if isinstance(value, Interval):
        return {"value": value.value, "low": value.low, "high": value.high, "n": value.n}
    return {"value": float(value), "low": None, "high": None, "n": n}


def column(key: str, label: str, better: str | None = None, digits: int = 2) -> Block:
    """A column of a table; `better` is `higher`, `lower` or None."""
    return {"key": key, "label": label, "better": better, "digits": digits}


def table(name: str, title: str, note: str, columns: Sequence[Block], rows: Mapping[str, Mapping[str, Any]]) -> Block:
    """A table of cells (or texts) by row label and column key; of a row, what has a column."""
    keys = [each["key"] for each in columns]
    listed = [
        {"label": label, "values": {key: values[key] for key in keys if key in values}}
        for label, values in rows.items()
    ]
    return {"id": name, "title": title, "note": note, "columns": list(columns), "rows": listed}


def series(label: str, points: Sequence[tuple[float, Interval]]) -> Block:
    """A line of a curve: (x, interval of y) in order; no band where a point has no interval."""
    lows, highs = [y.low for _, y in points], [y.high for _, y in points]
    has_band = None not in lows and None not in highs
    return {
        "label": label,
        "x": [x for x, _ in points],
        "y": [y.value for _, y in points],
        "low": lows if has_band else None,
        "high": highs if has_band else None,
    }


def curve(name: str, title: str, note: str, x: str, y: str, lines: Sequence[Block]) -> Block:
    """Lines over a common x."""
    return {"id": name, "title": title, "note": note, "x": x, "y": y, "series": list(lines)}


def point(label: str, x: Interval, y: Interval) -> Block:
    """A point of a scatter, with its intervals."""
    return {
        "label": label,
        "x": x.value,
        "y": y.value,
        "x_low": x.low,
        "x_high": x.high,
        "y_low": y.low,
        "y_high": y.high,
    }


def scatter(
    name: str,
    title: str,
    note: str,
    x: str,
    y: str,
    points: Sequence[Block],
    *,
    better_x: str | None = "lower",
    better_y: str | None = "higher",
) -> Block:
    """Points, and which way is better."""
    ends = {"better_x": better_x, "better_y": better_y}
    return {"id": name, "title": title, "note": note, "x": x, "y": y, **ends, "points": list(points)}


def heat(
    name: str,
    title: str,
    note: str,
    labels: tuple[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
) -> Block:
    """A field of numbers; `labels` say what its rows and columns are."""
    return {
        "id": name,
        "title": title,
        "note": note,
        "row_label": labels[0],
        "column_label": labels[1],
        "rows": list(rows),
        "columns": list(columns),
        "values": [list(row) for row in values],
    }
