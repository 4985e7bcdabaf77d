"""A run's directory read as blocks, or refused in one line that names the file and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from trimtab.errors import InputError
from trimtab.evaluation.records import CONFIG, SUMMARY, Run
from trimtab.report.page.blocks import (
    Better,
    Cell,
    Column,
    Curve,
    Entry,
    Heat,
    Measured,
    Point,
    Row,
    RunReport,
    Sample,
    Scatter,
    Series,
    Table,
    Tokens,
    TokenText,
)
from trimtab.report.page.nodes import Node

SCHEMA = 1
"""Of `summary.json`."""
_LISTS = ("tables", "curves", "scatters", "heats", "samples", "tokens", "notes")
_BLOCK = ("id", "title")


def read_report(path: str | Path, name: str | None = None) -> RunReport:
    """All that a page says of the run in a directory.

    Args:
        path: The run's directory.
        name: What the page calls it; the directory's own name if None.

    Raises:
        InputError: No run, not finished, or not of the schema.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: is no directory; give one that `trimtab eval --out` wrote")
    run = Run.read(path)
    config = Node(run.config, path / CONFIG).entries()
    summary = Node(run.summary, path / SUMMARY)
    return read_summary(
        summary,
        name=path.resolve().name if name is None else name,
        hash_=config["hash"].text(),
        identity={key: node.value for key, node in config["identity"].entries().items()},
        info={key: node.value for key, node in config["info"].entries().items()},
    )


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its directory's, with as many of those above it as it takes to be the only one.

    Raises:
        InputError: One directory is given twice.
    """
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path} is given twice; give each run once")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(part for part in place.parts[-depth:] if part != place.anchor) for place in places]


def read_summary(
    summary: Node, *, name: str, hash_: str, identity: Mapping[str, Any], info: Mapping[str, Any]
) -> RunReport:
    """The blocks of a summary, joined with what the configuration says.

    Raises:
        InputError: It is not of the schema.
    """
    fields = summary.fields(("schema", "protocol", "title"), ("question", "counts", *_LISTS))
    if fields["schema"].value != SCHEMA:
        raise fields["schema"].wrong(f"{SCHEMA} (use the trimtab that wrote it)")
    lists = {key: fields[key].items() if key in fields else () for key in _LISTS}
    return RunReport(
        name=name,
        protocol=fields["protocol"].text(),
        hash=hash_,
        identity=identity,
        info=info,
        title=fields["title"].text(),
        question=_text(fields, "question"),
        tables=tuple(map(_table, lists["tables"])),
        curves=tuple(map(_curve, lists["curves"])),
        scatters=tuple(map(_scatter, lists["scatters"])),
        heats=tuple(map(_heat, lists["heats"])),
        samples=tuple(map(_sample, lists["samples"])),
        tokens=tuple(map(_tokens, lists["tokens"])),
        notes=tuple(note.text() for note in lists["notes"]),
        counts=dict(_counts(fields["counts"])) if "counts" in fields else {},
    )


def _text(fields: Mapping[str, Node], key: str) -> str:
    return fields[key].text() if key in fields else ""


def _number(fields: Mapping[str, Node], key: str) -> float | None:
    return fields[key].number() if key in fields else None


def _better(fields: Mapping[str, Node], key: str) -> Better | None:
    if key not in fields:
        return None
    if fields[key].value not in ("higher", "lower"):
        raise fields[key].wrong('"higher", "lower" or null')
    return cast("Better", fields[key].value)


def _interval(fields: Mapping[str, Node], low: str, high: str) -> tuple[float | None, float | None]:
    """Both ends, or neither."""
    ends = _number(fields, low), _number(fields, high)
    if (ends[0] is None) != (ends[1] is None):
        here, missing = (low, high) if ends[1] is None else (high, low)
        raise fields[here].wrong(f"a number only beside {missing!r}; give both ends or neither")
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise fields[low].wrong(f"at most {high!r}, which is {ends[1]!r}")
    return ends


def _counts(node: Node) -> list[tuple[str, float]]:
    """Counts, those of nested objects under joined names; what is null is left out."""
    found: list[tuple[str, float]] = []
    for key, entry in node.entries().items():
        if isinstance(entry.value, Mapping):
            found += [(f"{key}: {below}", value) for below, value in _counts(entry)]
        elif entry.value is not None:
            found.append((key, entry.number()))
    return found


def _table(node: Node) -> Table:
    fields = node.fields((*_BLOCK, "columns", "rows"), ("note",))
    columns = tuple(map(_column, fields["columns"].items()))
    rows = []
    for entry in fields["rows"].items():
        row = entry.fields(("label", "values"))
        keys = tuple(column.key for column in columns)
        values = row["values"].fields((), keys)
        rows.append(Row(row["label"].text(), {key: _cell(value) for key, value in values.items()}))
    return Table(fields["id"].text(), fields["title"].text(), _text(fields, "note"), columns, tuple(rows))


def _column(node: Node) -> Column:
    fields = node.fields(("key", "label"), ("better", "digits"))
    digits = fields["digits"].whole() if "digits" in fields else 2
    return Column(fields["key"].text(), fields["label"].text(), _better(fields, "better"), min(digits, 10))


def _cell(node: Node) -> Cell:
    if isinstance(node.value, str):
        return node.value
    if not isinstance(node.value, Mapping):
        raise node.wrong('null, a text or {"value", "low", "high", "n"}')
    fields = node.fields((), ("value", "low", "high", "n"))
    if "value" not in fields:
        return None
    low, high = _interval(fields, "low", "high")
    return Measured(fields["value"].number(), low, high, fields["n"].whole() if "n" in fields else None)


def _curve(node: Node) -> Curve:
    fields = node.fields((*_BLOCK, "x", "y", "series"), ("note",))
    series = tuple(map(_series, fields["series"].items()))
    note = _text(fields, "note")
    return Curve(
        fields["id"].text(), fields["title"].text(), note, fields["x"].text(), fields["y"].text(), series
    )  # fmt: skip


def _series(node: Node) -> Series:
    fields = node.fields(("label", "x", "y"), ("low", "high"))
    x = tuple(item.number() for item in fields["x"].items())
    if ("low" in fields) != ("high" in fields):
        raise node.wrong("both 'low' and 'high', or neither")
    low, high = (fields[end].numbers(len(x)) if end in fields else None for end in ("low", "high"))
    return Series(fields["label"].text(), x, fields["y"].numbers(len(x)), low, high)


def _scatter(node: Node) -> Scatter:
    fields = node.fields((*_BLOCK, "x", "y", "points"), ("note", "better_x", "better_y"))
    return Scatter(
        fields["id"].text(),
        fields["title"].text(),
        _text(fields, "note"),
        fields["x"].text(),
        fields["y"].text(),
        _better(fields, "better_x"),
        _better(fields, "better_y"),
        tuple(point for item in fields["points"].items() if (point := _point(item)) is not None),
    )


def _point(node: Node) -> Point | None:
    """A point; None where a coordinate is null, which has no place in a figure."""
    fields = node.fields(("label", "x", "y"), ("x_low", "x_high", "y_low", "y_high"))
    x, y = fields["x"].number_or_none(), fields["y"].number_or_none()
    if x is None or y is None:
        return None
    return Point(
        fields["label"].text(), x, y, *_interval(fields, "x_low", "x_high"), *_interval(fields, "y_low", "y_high")
    )


def _heat(node: Node) -> Heat:
    fields = node.fields((*_BLOCK, "row_label", "column_label", "rows", "columns", "values"), ("note",))
    rows, columns = fields["rows"].texts(), fields["columns"].texts()
    values = fields["values"].items()
    if len(values) != len(rows):
        raise InputError(f"{node.file}: {node.key}.values has {len(values)} rows; it takes {len(rows)}, one for each")
    return Heat(
        fields["id"].text(),
        fields["title"].text(),
        _text(fields, "note"),
        fields["row_label"].text(),
        fields["column_label"].text(),
        rows,
        columns,
        tuple(row.numbers(len(columns)) for row in values),
    )


def _sample(node: Node) -> Sample:
    fields = node.fields(("instruction", "entries"), ("concept", "way"))
    entries = tuple(map(_entry, fields["entries"].items()))
    concept, way = (fields[key].text() if key in fields else None for key in ("concept", "way"))
    return Sample(concept, way, fields["instruction"].text(), entries)


def _entry(node: Node) -> Entry:
    fields = node.fields(("label", "text"), ("multiplier", "ratings"))
    ratings = fields["ratings"].entries() if "ratings" in fields else {}
    return Entry(
        fields["label"].text(),
        _number(fields, "multiplier"),
        fields["text"].text(),
        {aspect: rating.number_or_none() for aspect, rating in ratings.items()},
    )


def _tokens(node: Node) -> Tokens:
    fields = node.fields(("label", "negative", "positive", "texts"), ("concept",))
    texts = []
    for item in fields["texts"].items():
        text = item.fields(("category", "tokens", "values"))
        tokens = text["tokens"].texts()
        texts.append(TokenText(text["category"].text(), tokens, text["values"].numbers(len(tokens))))
    return Tokens(
        fields["label"].text(),
        fields["concept"].text() if "concept" in fields else None,
        fields["negative"].number(),
        fields["positive"].number(),
        tuple(texts),
    )
