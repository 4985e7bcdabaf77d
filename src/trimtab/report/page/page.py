"""The page: runs in, one HTML file out that needs nothing else, with the same bytes for the same runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from trimtab._version import __version__
from trimtab.errors import InputError
from trimtab.report.comparing import compare
from trimtab.report.page.blocks import Curve, RunReport, Scatter
from trimtab.report.page.command import command_of
from trimtab.report.page.heats import view_heats
from trimtab.report.page.identity import grouped, view_identity
from trimtab.report.page.lines import Drawing, draw_curve
from trimtab.report.page.numbers import counted, short, whole
from trimtab.report.page.palette import STEPS, variables
from trimtab.report.page.points import draw_scatter
from trimtab.report.page.room import LARGEST, ROOMS, Room, bounded, cut, sized
from trimtab.report.page.svg import NARROW, WIDE
from trimtab.report.page.tables import TableView, curve_table, fit_table, fit_tables, scatter_table, view_table
from trimtab.report.page.texts import view_probes, view_samples

_UNREADABLE = "unreadable"
_WIDTHS = {"wide": WIDE, "narrow": NARROW}
_POINTS, _LINES = 400, 60
"""Points of a scatter, and lines of a curve, that are drawn: of more nobody could tell one from another."""
_COMMAND, _KEY = 4_000, 300
"""Characters of a command that are shown, and bytes of HTML around the name of a line in a legend."""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        html: All of it.
        left_out: Samples and texts of probes that the runs have and the page has no room for.
    """

    html: str
    left_out: int


@dataclass(frozen=True)
class _Figure:
    """A figure in both widths, with its numbers; no drawing where it has none, and `crowded` where it has too many."""

    title: str
    note: str
    drawings: tuple[tuple[str, Drawing], ...]
    data: TableView
    crowded: bool


@dataclass(frozen=True)
class _Prepared:
    """What is made of a run once, however much of it there is room for."""

    report: RunReport
    tables: tuple[TableView, ...]
    figures: tuple[_Figure, ...]
    identity: Mapping[str, Any]


def make_page(reports: Sequence[RunReport]) -> Page:
    """One page of all runs, with an overview where there are several.

    Args:
        reports: At least one, of different names.

    Raises:
        InputError: No run, or so many that even their shortest forms would be too large together.
    """
    if not reports:
        raise InputError("no run to report on; give at least one directory that `trimtab eval --out` wrote")
    template = _environment().get_template("template.html.j2")
    prepared = [_prepare(bounded(report), f"run-{k + 1}") for k, report in enumerate(reports)]
    overview = _overview([each.report for each in prepared])
    shared = {**_frame(), "counted": counted, "several": len(reports) > 1}
    for room in ROOMS:
        runs = [_run(each, room) for each in prepared]
        tables = fit_tables([table for _, table in overview], room.tables)
        beside = [(protocol, table) for (protocol, _), table in zip(overview, tables, strict=True)]
        html = _small(template.generate(runs=runs, overview=beside, **shared))
        if html is not None:
            views = [view for run in runs for view in (run["samples"], run["probes"]) if view is not None]
            return Page(html, sum(view.left_out for view in views))
    raise InputError(
        f"a page of these {len(reports)} runs would be larger than {LARGEST:,} bytes; give fewer at a time"
    )


def _small(parts: Iterable[str]) -> str | None:
    """The parts as one text; None as soon as they are too large for a page."""
    kept, size = [], 0
    for part in parts:
        size += len(part.encode("utf-8", errors="backslashreplace"))
        if size >= LARGEST:
            return None
        kept.append(part)
    return "".join(kept)


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(whole=whole, short=short)
    environment.tests["alike"] = _alike
    return environment


def _read(name: str) -> str:
    return resources.files("trimtab.report.page").joinpath(name).read_text(encoding="utf-8")


def _frame() -> Mapping[str, Any]:
    """What every page has: its style, its script, and the policy that lets only that script run."""
    scales = "".join(
        f".{scale}-{k}{{background:var(--{scale}-{k});color:var(--{scale}-ink-{k})}}"
        for scale in ("heat", "turn")
        for k in range(STEPS)
    )
    schemes = (
        f":root{{{variables('light')}}}@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{variables('dark')}}}}}@media screen{{:root[data-theme=dark]"
        f"{{color-scheme:dark;{variables('dark')}}}}}"
    )
    script = _read("page.js")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "style": Markup(schemes + scales + _read("style.css")),  # our own
        "script": Markup(script),  # our own
        "script_hash": hashed,
        "version": __version__,
        "steps": range(STEPS),
    }


def _prepare(report: RunReport, prefix: str) -> _Prepared:
    figures = [_curve(curve, f"{prefix}-curve-{k}") for k, curve in enumerate(report.curves)]
    figures += [_scatter(scatter, f"{prefix}-scatter-{k}") for k, scatter in enumerate(report.scatters)]
    return _Prepared(report, tuple(map(view_table, report.tables)), tuple(figures), grouped(report.identity))


def _run(prepared: _Prepared, room: Room) -> Mapping[str, Any]:
    """A run as the template takes it."""
    report = prepared.report
    headline, *tables = fit_tables(prepared.tables, room.tables) or (None,)
    figures = _fitting(prepared.figures, room.figures)
    heats, no_room = view_heats(report.heats, room.heats)
    command, shortened = command_of(report.info)
    about = {_words(key): value for key, value in report.info.items() if key != "command"}
    shown = [table for table in tables if table.rows or not table.left_out]
    return {
        "report": report,
        "headline": headline,
        "tables": shown,
        "tables_left_out": len(tables) - len(shown),
        "figures": figures,
        "heats": heats,
        "figures_left_out": len(prepared.figures) - len(figures) + no_room,
        "samples": view_samples(report.samples, room.samples),
        "probes": view_probes(report.tokens, room.tokens),
        "counts": {_words(key): value for key, value in report.counts.items()},
        "unreadable": _unreadable(report.counts),
        "command": None if command is None else cut(command, _COMMAND),
        "shortened": shortened,
        "identity": view_identity(prepared.identity, room.identity),
        "info": view_identity(about, room.identity),
    }


def _fitting(figures: Sequence[_Figure], budget: int) -> list[_Figure]:
    """The figures that go into so many bytes of HTML, each with as many rows of its numbers as its share allows."""
    kept = []
    for k, figure in enumerate(figures):
        drawn = sized(figure.title) + sized(figure.note) + sum(_drawn(drawing) for _, drawing in figure.drawings)
        data, size = fit_table(figure.data, max(0, budget // (len(figures) - k) - drawn))
        if drawn + size <= budget:
            budget -= drawn + size
            kept.append(replace(figure, data=data))
    return kept


def _drawn(drawing: Drawing) -> int:
    keys = sum(_KEY + sized(key.label) for key in drawing.keys)
    return len(drawing.svg.encode("utf-8", errors="backslashreplace")) + keys


def _curve(curve: Curve, salt: str) -> _Figure:
    drawings, crowded = (), len(curve.series) > _LINES
    if not crowded and any(y is not None for series in curve.series for y in series.y):
        drawings = tuple((name, draw_curve(curve, width, f"{salt}-{name}")) for name, width in _WIDTHS.items())
    return _Figure(curve.title, curve.note, drawings, curve_table(curve), crowded)


def _scatter(scatter: Scatter, salt: str) -> _Figure:
    drawings, crowded = (), len(scatter.points) > _POINTS
    if scatter.points and not crowded:
        drawings = tuple((name, draw_scatter(scatter, width, f"{salt}-{name}")) for name, width in _WIDTHS.items())
    return _Figure(scatter.title, scatter.note, drawings, scatter_table(scatter), crowded)


def _overview(reports: Sequence[RunReport]) -> Sequence[tuple[str, TableView]]:
    """Of every protocol with several runs its name, and their headline tables in one."""
    groups: dict[str, list[RunReport]] = {}
    for report in reports:
        groups.setdefault(report.protocol, []).append(report)
    found = []
    for protocol, group in groups.items():
        try:
            found.append((protocol, view_table(compare(group).table)))
        except InputError:  # one run, or none with a column that the others have: nothing to put side by side
            continue
    return found


def _words(key: str) -> str:
    return key.replace("_", " ")


def _unreadable(counts: Mapping[str, float]) -> list[str]:
    """Each count of unreadable replies above zero, in words, with its share of the ratings where that is known."""
    lines = []
    for key, value in counts.items():
        if _UNREADABLE in key.lower() and value > 0:
            about = _words(key.lower().replace(_UNREADABLE, "")).strip(" :")
            total = counts.get("ratings", 0)
            details = [about] if about else []
            details += [f"{100 * value / total:.2g} % of {whole(total)} ratings"] if total >= value else []
            lines.append(
                f"{counted(int(value), 'reply', 'replies')} of the judge could not be read"
                + (f" ({'; '.join(details)})" if details else "")
            )
    return lines


def _alike(value: Any) -> bool:
    """Whether a list holds objects of the same few keys and of no objects: a table."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        return False
    if not all(isinstance(entry, Mapping) and list(entry) == list(value[0]) for entry in value):
        return False
    return len(value[0]) <= 8 and not any(isinstance(held, Mapping | list) for one in value for held in one.values())
