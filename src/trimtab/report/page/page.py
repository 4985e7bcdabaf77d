"""The page: runs in, one HTML file out that needs nothing else, with the same bytes for the same runs."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from trimtab._version import __version__
from trimtab.errors import InputError
from trimtab.report.comparing import compare
from trimtab.report.page.blocks import Curve, RunReport, Scatter
from trimtab.report.page.lines import Drawing, draw_curve
from trimtab.report.page.numbers import counted, short, whole
from trimtab.report.page.palette import STEPS, variables
from trimtab.report.page.points import draw_scatter
from trimtab.report.page.svg import NARROW, WIDE
from trimtab.report.page.tables import TableView, curve_table, scatter_table, view_heat, view_table
from trimtab.report.page.texts import ProbesView, SamplesView, view_probes, view_samples

LARGEST = 5_000_000
"""Bytes that a page stays below."""
_BUDGETS = (400_000, 150_000, 50_000, 15_000, 0)
"""Bytes of samples, and again of tokens, that a run may fill: the most with which the page stays below `LARGEST`."""
_UNREADABLE = "unreadable"
_WIDTHS = {"wide": WIDE, "narrow": NARROW}


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
    """A figure in both widths, with its numbers; no drawing where it has none."""

    title: str
    note: str
    drawings: tuple[tuple[str, Drawing], ...]
    data: TableView


def make_page(reports: Sequence[RunReport]) -> Page:
    """One page of all runs, with an overview where there are several.

    Args:
        reports: At least one, of different names.

    Raises:
        InputError: No run, or so many that even without samples the page would be too large.
    """
    if not reports:
        raise InputError("no run to report on; give at least one directory that `trimtab eval --out` wrote")
    template = _environment().get_template("template.html.j2")
    figures = [_figures(report, f"run-{k + 1}") for k, report in enumerate(reports)]
    shared = {**_frame(), "overview": _overview(reports), "counted": counted, "several": len(reports) > 1}
    for budget in _BUDGETS:
        samples = [view_samples(report.samples, budget) for report in reports]
        probes = [view_probes(report.tokens, budget) for report in reports]
        runs = [_run(*parts) for parts in zip(reports, figures, samples, probes, strict=True)]
        html = template.render(runs=runs, **shared)
        if len(html.encode("utf-8", errors="backslashreplace")) < LARGEST:
            return Page(html, sum(view.left_out for view in (*samples, *probes) if view is not None))
    raise InputError(
        f"a page of these {len(reports)} runs would be larger than {LARGEST:,} bytes; give fewer at a time"
    )


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


def _run(
    report: RunReport, figures: Sequence[_Figure], samples: SamplesView | None, probes: ProbesView | None
) -> Mapping[str, Any]:
    """A run as the template takes it."""
    headline, *tables = map(view_table, report.tables) if report.tables else (None,)
    return {
        "report": report,
        "headline": headline,
        "tables": tables,
        "figures": figures,
        "heats": [view_heat(heat) for heat in report.heats],
        "samples": samples,
        "probes": probes,
        "counts": {_words(key): value for key, value in report.counts.items()},
        "unreadable": _unreadable(report.counts),
        "command": _command(report.info),
        "info": {_words(key): value for key, value in report.info.items() if key != "command"},
    }


def _figures(report: RunReport, prefix: str) -> list[_Figure]:
    curves = [_curve(curve, f"{prefix}-curve-{k}") for k, curve in enumerate(report.curves)]
    return curves + [_scatter(scatter, f"{prefix}-scatter-{k}") for k, scatter in enumerate(report.scatters)]


def _curve(curve: Curve, salt: str) -> _Figure:
    drawings = ()
    if any(y is not None for series in curve.series for y in series.y):
        drawings = tuple((name, draw_curve(curve, width, f"{salt}-{name}")) for name, width in _WIDTHS.items())
    return _Figure(curve.title, curve.note, drawings, curve_table(curve))


def _scatter(scatter: Scatter, salt: str) -> _Figure:
    drawings = ()
    if scatter.points:
        drawings = tuple((name, draw_scatter(scatter, width, f"{salt}-{name}")) for name, width in _WIDTHS.items())
    return _Figure(scatter.title, scatter.note, drawings, scatter_table(scatter))


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


def _command(info: Mapping[str, Any]) -> str | None:
    """The command line of a run, to be typed again; None if the run does not say it."""
    command = info.get("command")
    if isinstance(command, str):
        return command
    if isinstance(command, Sequence) and command:
        return shlex.join(map(str, command))
    return None
