"""What the docs show of `benchmarks.methods_on_organism`: a page of tables, a figure, rows on each method's page."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.methods_on_organism import INPUTS, JUDGED, PARTS, RESULTS, SETTINGS, VARIANTS, method_of

DOCS = harness.ROOT / "docs"
TABLE, FIGURE, PAGES = DOCS / "which-method-table.md", DOCS / "which-method.png", DOCS / "methods"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
ROUNDS = 4000
COLUMNS = "score | concept | instruction | fluency | KL on unrelated prompts | fit, s"
WAYS = {"elicit": "Eliciting", "suppress": "Suppressing"}

ABOUT = """
What `python -m benchmarks.methods_on_organism` wrote. Every method learns from the same 48 pairs of a concept of the
[organism](organism.md), at blocks 1 and 4 or at places of its own, and with each
[reading](methods.md#what-is-read-of-a-pair) it can have (`lineas` with its own). Layer, reading and multipliers are
chosen on 24 other pairs
[without a judge](calibration.md). Then the exact judge reads {judged} answers a direction to prompts never seen.
*Score* is the harmonic mean of concept, instruction and fluency, 0 to 2; where something is suppressed, of what is gone
of the concept. *KL* is KL(plain || steered) in nats a token on prompts of another kind. Brackets: 95 % bootstrap
intervals over concepts and prompts. One seed; the seconds of a fit are those of one core of two, the other one busy.
Methods that were made for models a thousand times as large keep their published settings, unless the page says so: a
place in this table is one on this model, and at these two blocks (a trial with 1, 3 and 5 gave `diffmean` 1.41 for
*past-tense*, at block 5, where it has 0.00 here).
"""

Interval = tuple[float, float, float]
Cells = Mapping[str, Mapping[str, Any]]
"""By concept, what was written down of a method."""


@dataclass(frozen=True)
class Row:
    """A method in one direction, over all concepts.

    Attributes:
        name: Of the row.
        parts: By name of the figure, its mean with the ends of its interval.
        seconds: Of a fit.
        n: Concepts.
        rank: 1 for the best score.
    """

    name: str
    parts: Mapping[str, Interval]
    seconds: float
    n: int
    rank: int = 0


def write_tables(methods: Sequence[str], concepts: Sequence[str]) -> str:
    """Writes page, figure and rows of all results that are there; gives the page's text."""
    from trimtab.report.methods import Point, draw_methods

    found = {name: _read(name, concepts) for name in methods}
    found = {name: cells for name, cells in found.items() if cells}
    rows = {way: _ranked(_rows(found, way)) for way in WAYS}
    points = {
        WAYS[way].lower(): [
            Point(row.name, method_of(row.name).family, row.parts["score"], row.parts["unrelated_kl"]) for row in of_way
        ]
        for way, of_way in rows.items()
    }
    draw_methods(points, FIGURE)
    text = _page(found, rows, concepts)
    TABLE.write_text(text, encoding="utf-8")
    for name in {VARIANTS.get(name, name) for name in (*found, *INPUTS)}:
        _write_on_page(name, _snippet(name, found, rows))
    return text


def interval(values: Mapping[str, Sequence[float]]) -> Interval:
    """The mean over concepts of their means, and the ends of its 95 % bootstrap interval over concepts and prompts."""
    draw, names = random.Random(0), list(values)
    rounds = sorted(
        _mean([_mean(draw.choices(values[name], k=len(values[name]))) for name in draw.choices(names, k=len(names))])
        for _ in range(ROUNDS)
    )
    overall = _mean([_mean(each) for each in values.values()])
    return overall, rounds[round(0.025 * ROUNDS)], rounds[round(0.975 * ROUNDS) - 1]


def _read(name: str, concepts: Sequence[str]) -> dict[str, dict[str, Any]]:
    paths = {concept: RESULTS / f"{concept}-{name}.json" for concept in concepts}
    return {c: json.loads(path.read_text(encoding="utf-8")) for c, path in paths.items() if path.is_file()}


def _rows(found: Mapping[str, Cells], way: str) -> Iterable[Row]:
    for name, cells in found.items():
        good = {concept: cell["rows"][way] for concept, cell in cells.items() if way in cell.get("rows", {})}
        if good:
            parts = {part: {concept: row[part] for concept, row in good.items() if row[part] is not None}
                     for part in (*PARTS, "unrelated_kl")}  # fmt: skip
            means = {part: interval(values) for part, values in parts.items() if values}
            yield Row(name, means, _mean([cells[concept]["seconds"] for concept in good]), len(good))


def _ranked(rows: Iterable[Row]) -> list[Row]:
    ordered = sorted(rows, key=lambda row: -row.parts["score"][0])
    return [Row(row.name, row.parts, row.seconds, row.n, rank) for rank, row in enumerate(ordered, 1)]


def _page(found: Mapping[str, Cells], rows: Mapping[str, Sequence[Row]], concepts: Sequence[str]) -> str:
    lines = [
        "# All methods on nine concepts",
        "",
        " ".join(ABOUT.format(judged=JUDGED).split()),
        "",
        "![Effect against side effects, a point a method](which-method.png)",
        "",
    ]
    for way, title in WAYS.items():
        lines += [f"## {title}", "", f"| | method | {COLUMNS} | concepts |", "| --- " * 9 + "|"]
        for row in rows[way]:
            link = f"[`{row.name}`](methods/{VARIANTS.get(row.name, row.name)}.md)"
            lines.append(f"| {row.rank} | {link} | {_figures(row)} | {row.n} |")
        lines.append("")
    for way, title in WAYS.items():
        lines += [*_by_concept(found, concepts, way, title), ""]
    return "\n".join([*lines, *_notes(found)]) + "\n"


def _figures(row: Row) -> str:
    parts = row.parts
    plain = " | ".join(
        f"{parts[part][0]:.2f}" if part in parts else "" for part in ("concept", "instruction", "fluency")
    )
    return f"{_with(parts['score'])} | {plain} | {_with(parts['unrelated_kl'], 3)} | {row.seconds:.1f}"


def _by_concept(found: Mapping[str, Cells], concepts: Sequence[str], way: str, title: str) -> list[str]:
    there = [concept for concept in concepts if (RESULTS / f"{concept}.json").is_file()]
    plain = {c: json.loads((RESULTS / f"{c}.json").read_text(encoding="utf-8"))["rows"] for c in there}
    lines = [
        f"## {title}, concept by concept",
        "",
        "| score | " + " | ".join(there) + " |",
        "| --- |" + " --- |" * len(there),
    ]
    for row in ("unsteered", "prompted") if way == "elicit" else ():
        lines.append(f"| *{row}* | " + " | ".join(f"{_mean(plain[c][row]['score']):.2f}" for c in there) + " |")
    for name, cells in found.items():
        if not any(way in cell.get("rows", {}) for cell in cells.values()):
            continue
        texts = []
        for concept in there:
            row = cells.get(concept, {}).get("rows", {}).get(way)
            failed = concept in cells and not cells[concept].get("rows")
            texts.append(f"{_mean(row['score']):.2f}" if row else "failed" if failed else "")
        lines.append(f"| `{name}` | " + " | ".join(texts) + " |")
    return lines


def _notes(found: Mapping[str, Cells]) -> list[str]:
    lines = ["## Settings other than the defaults", ""]
    lines += [f"- `{name}`: " + ", ".join(f"{key} {value}" for key, value in SETTINGS[name].items()) + "."
              for name in SETTINGS if name in found]  # fmt: skip
    lines += ["", "## Not applicable here", "", *(f"- `{name}`: {why}." for name, why in INPUTS.items())]
    failed = {name: [(where, text) for cell in cells.values() for where, text in cell["errors"].items()]
              for name, cells in found.items()}  # fmt: skip
    if any(failed.values()):
        lines += [
            "",
            "## Fits that were refused",
            "",
            "Places drop out as in a search for a layer; a concept is *failed* where none was left.",
            "",
        ]
        lines += [f"- `{name}`, {len(errors)} of its fits, such as {errors[0][0]}: {errors[0][1]}."
                  for name, errors in failed.items() if errors]  # fmt: skip
    return lines


def _snippet(name: str, found: Mapping[str, Cells], rows: Mapping[str, Sequence[Row]]) -> str:
    if name in INPUTS:
        return f"Not in the [comparison of all methods](../which-method-table.md): it {INPUTS[name]}."
    variants = [name, *(variant for variant, of in VARIANTS.items() if of == name)]
    lines = [
        "On nine concepts of the [organism](../organism.md), among all methods "
        "([how, and the others](../which-method-table.md)):",
        "",
        f"| | place | {COLUMNS} |",
        "| --- " * 8 + "|",
    ]
    for way, of_way in rows.items():
        for row in of_way:
            if row.name in variants:
                named = way if row.name == name else f"{way}, `{row.name.removeprefix(f'{name}-')}`"
                lines.append(f"| {named} | {row.rank} of {len(of_way)} | {_figures(row)} |")
    chosen = _chosen(found.get(name, {}))
    return "\n".join([*lines, *(["", chosen] if chosen else [])])


def _chosen(cells: Cells) -> str:
    """What was chosen how often."""
    layers = Counter("+".join(map(str, cell["layers"])) for cell in cells.values() if cell.get("layers"))
    readings = Counter(cell["reading"] for cell in cells.values() if cell.get("reading"))
    parts = []
    if layers and max(len(key.split("+")) for key in layers) <= 2:
        parts.append("layer " + ", ".join(f"{layer} ({n})" for layer, n in layers.most_common()))
    if len(readings) > 1:
        parts.append("reading " + ", ".join(f"`{reading}` ({n})" for reading, n in readings.most_common()))
    return f"Chosen (concepts): {'; '.join(parts)}." if parts else ""


def _write_on_page(name: str, text: str) -> None:
    """Puts the text behind the mark of the method's page, in place of what stood there."""
    path = PAGES / f"{name}.md"
    page = path.read_text(encoding="utf-8")
    before, mark, after = page.partition(BEGIN)
    if not mark:
        raise ValueError(f"{path} has no {BEGIN}")
    _, _, rest = after.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest if rest else chr(10)}", encoding="utf-8")


def _with(value: Interval, digits: int = 2) -> str:
    return f"{value[0]:.{digits}f} ({value[1]:.{digits}f} to {value[2]:.{digits}f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
