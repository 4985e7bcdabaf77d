"""matplotlib's SVG made part of a page: its colours and its fonts are the page's, its bytes those of its content."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

from trimtab.report.page.palette import SENTINELS, sentinel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FONT = 12
"""Pixels; nothing in a figure is smaller, and no figure is scaled below its own width."""
WIDE, NARROW = 760, 328
"""Widths in pixels: of a column of text on a desk, and on a phone 360 wide."""
_TAG = re.compile(r"<[^>]*>")


def new_canvas(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Canvas:
    """An empty figure of a size in pixels."""
    from matplotlib.figure import Figure as Canvas  # takes a second to load

    return Canvas(figsize=(width / 72, height / 72), dpi=72, layout=layout, facecolor="none")


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Settings under which figures are drawn and written.

    Args:
        salt: Decides the ids in the SVG; another one for each figure of a page, for ids are the page's.
    """
    from matplotlib import rc_context

    ink, muted = sentinel("ink"), sentinel("muted")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,  # a dollar in a label is a dollar
        "font.size": FONT,
        "font.family": "DejaVu Sans",
        "axes.unicode_minus": True,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": sentinel("faint"),
        "axes.facecolor": "none",
        "axes.labelsize": FONT,
        "axes.titlesize": FONT,
        "axes.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "grid.color": sentinel("line"),
        "grid.linewidth": 1,
        "xtick.color": sentinel("faint"),
        "xtick.labelcolor": muted,
        "xtick.labelsize": FONT,
        "ytick.color": sentinel("faint"),
        "ytick.labelcolor": muted,
        "ytick.labelsize": FONT,
        "ytick.major.size": 0,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.h_pad": 2 / 72,
        "figure.constrained_layout.w_pad": 2 / 72,
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph.*")  # the reader's browser has the glyph
        yield


def label_axes(axes: Axes, x: str, y: str, width: float) -> None:
    """Name both axes: x below, y above its upper end, so that nobody turns the head."""
    axes.set_xlabel(wrapped(x, width), loc="right", color=sentinel("muted"))
    axes.set_title(wrapped(y, width), loc="left", color=sentinel("muted"), pad=8)


def logarithmic_x(axes: Axes) -> None:
    """A logarithmic x axis with its ticks in plain figures; matplotlib's own are mathematics that no browser reads."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def one_line(text: str) -> str:
    """A text in one line of characters that can be drawn; control characters and halves of surrogate pairs cannot."""
    lines = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in lines)


def wrapped(text: str, width: float) -> str:
    """A text in lines that fit a width in pixels."""
    import textwrap

    return "\n".join(textwrap.wrap(one_line(text), max(8, int(width / (0.6 * FONT))))[:3])


def clipped(text: str, width: float) -> str:
    """One line of a text, cut where it would be wider than so many pixels."""
    most = max(4, int(width / (0.58 * FONT)))
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def inline(canvas: Canvas, name: str) -> Markup:
    """A figure as an `svg` element with an accessible name; call it inside `drawing`."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<style\b.*?</style>|<defs>\s*</defs>", "", text, flags=re.DOTALL
    )
    used = {*re.findall(r'(?:url\(#|href="#)([^)"]+)', text)}
    text = _TAG.sub(lambda tag: _tag(tag[0], used), text)
    text = re.sub(r">\s*\n\s*<", ">\n<", text).strip()
    width, height = (round(72 * size) for size in canvas.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{escape(one_line(name))}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">'
    )
    return Markup(opening + text[text.index(">") + 1 :])  # matplotlib escaped every label


def _tag(tag: str, used: set[str]) -> str:
    """A tag without ids that nothing refers to, in the page's colours and fonts."""
    if (found := re.search(r' id="([^"]*)"', tag)) is not None and found[1] not in used:
        tag = tag.replace(found[0], "")
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r"#[0-9a-f]{6}", lambda colour: _colour(colour[0]), tag)
    return re.sub(r"(font-family:|font: (?:[^;\"]* )?[\d.]+px) [^;\"]*", r"\1 var(--sans)", tag)


def _colour(colour: str) -> str:
    return f"var(--{SENTINELS[colour]})" if colour in SENTINELS else colour
