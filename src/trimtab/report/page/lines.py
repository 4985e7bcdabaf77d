"""Line charts: a few series together, told apart by colour, marker and dash; many of them as small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from trimtab.report.page.blocks import Curve, Numbers, Series
from trimtab.report.page.palette import SERIES, sentinel
from trimtab.report.page.svg import (
    FONT,
    NARROW,
    clipped,
    drawing,
    inline,
    label_axes,
    logarithmic_x,
    new_canvas,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Annotation

FEW = len(SERIES)
"""Series that share one panel at most; more are drawn in a panel each, over the others in grey."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("", "6 2", "2 2", "6 2 2 2", "10 3", "1 2")
_SHAPES = (
    "M14 2.5a3.5 3.5 0 1 0 .01 0z",
    "M11 3h6v6h-6z",
    "M14 2l4 7h-8z",
    "M14 1.5l4.5 4.5-4.5 4.5-4.5-4.5z",
    "M14 10l4-7h-8z",
    "M12.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
)
_PANEL = 84
"""Height of a small multiple's axes in pixels."""
_LABEL = 150
"""Widest label beside a line, in pixels."""


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a label, and how its line looks (a colour's variable, a dash, a marker's outline)."""

    label: str
    colour: str
    dash: str
    shape: str


@dataclass(frozen=True)
class Drawing:
    """A figure for one width.

    Attributes:
        svg: The element.
        keys: What stands in a legend beside it; nothing where the labels are in the figure.
    """

    svg: Markup
    keys: tuple[Key, ...] = ()


def draw_curve(curve: Curve, width: int, salt: str) -> Drawing:
    """A curve at a width in pixels.

    Args:
        curve: At least one of its series has a number.
        width: Of the figure.
        salt: Not used by another figure of the page.
    """
    series = [one for one in curve.series if _has_numbers(one)]
    names = ", ".join(one.label for one in series)
    name = (
        f"Line chart, {curve.title}: {curve.y} against {curve.x}, for {names}. The numbers are in the table below it."
    )
    with drawing(salt):
        if len(series) > FEW:
            return Drawing(inline(_multiples(curve, series, width), name))
        canvas, direct = _together(curve, series, width)
        svg = inline(canvas, name)
    keys = tuple(
        Key(one.label, SERIES[k], _DASHES[k], _SHAPES[k]) for k, one in enumerate(series) if len(series) > 1
    )  # fmt: skip
    return Drawing(svg, () if direct else keys)


def _has_numbers(series: Series) -> bool:
    return any(y is not None for y in series.y)


def _together(curve: Curve, series: Sequence[Series], width: int) -> tuple[Canvas, bool]:
    """One panel with all series; whether their labels stand at the ends of the lines."""
    canvas = new_canvas(width, min(340, 0.62 * width + 60))
    axes = canvas.subplots()
    for k, one in enumerate(series):
        colour, dash = sentinel(SERIES[k]), [float(part) for part in _DASHES[k].split()]
        style = (0, dash) if dash else "-"
        _line(axes, one, colour, linewidth=1.8, linestyle=style, marker=_MARKERS[k], markersize=5)
        _band(axes, one, colour)
    _frame(axes, series)
    label_axes(axes, curve.x, curve.y, width - 40)
    direct = width > NARROW and len(series) > 1 and _label_ends(canvas, axes, series)
    return canvas, direct


def _multiples(curve: Curve, series: Sequence[Series], width: int) -> Canvas:
    """A panel a series, with all others in grey behind it."""
    across = 2 if width <= NARROW else 4
    down = math.ceil(len(series) / across)
    named = wrapped(f"{curve.y} against {curve.x}", width)
    top, bottom, gap = 26 + 15 * len(named.splitlines()), 22, 28 if len(series) % across == 0 else 44
    height = top + bottom + _PANEL * down + gap * (down - 1)
    canvas = new_canvas(width, height, layout=None)
    panels = canvas.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for number, axes in enumerate(panels):
        axes.set_visible(number < len(series))
        axes.tick_params(labelbottom=number >= len(series) - across)
    for axes, one in zip(panels, series, strict=False):
        for other in series:
            if other is not one:
                _line(axes, other, sentinel("faint"), linewidth=0.7)
        _line(axes, one, sentinel("accent"), linewidth=2, zorder=3, marker="o", markersize=3)
        _band(axes, one, sentinel("accent"))
        axes.set_title(clipped(one.label, width / across - 40), loc="left", color=sentinel("ink"), pad=6)
        axes.yaxis.grid(True)
    _frame(panels[0], series)
    panels[0].locator_params(axis="y", nbins=4)
    if panels[0].get_xscale() == "linear":
        panels[0].locator_params(axis="x", nbins=4)
    canvas.text(2 / width, 1 - 2 / height, named, va="top", color=sentinel("muted"))
    canvas.draw_without_rendering()
    left = 6 + max(label.get_window_extent().width for label in panels[0].get_yticklabels())
    canvas.subplots_adjust(
        left=left / width, right=1 - 8 / width, top=1 - top / height, bottom=bottom / height,
        wspace=18 * across / (width - left), hspace=gap / _PANEL,
    )  # fmt: skip
    return canvas


def _line(axes: Axes, series: Series, colour: str, *, linestyle: object = "-", **style: object) -> None:
    pairs = sorted(zip(series.x, _floats(series.y), strict=True))
    axes.plot(*zip(*pairs, strict=True), color=colour, linestyle=linestyle, **style)  # pyright: ignore[reportArgumentType]


def _band(axes: Axes, series: Series, colour: str) -> None:
    """The interval, where there is one."""
    if series.low is None or series.high is None:
        return
    rows = sorted(zip(series.x, _floats(series.low), _floats(series.high), strict=True))
    x, low, high = zip(*rows, strict=True)
    axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)


def _floats(values: Numbers) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _frame(axes: Axes, series: Sequence[Series]) -> None:
    """Horizontal lines, room for every interval, and a logarithmic x where the values are spread so widely."""
    axes.yaxis.grid(True)
    xs = [x for one in series for x in one.x]
    if min(xs) > 0 and max(xs) / min(xs) > 100:
        logarithmic_x(axes)
    ys = [y for one in series for part in (one.y, one.low or (), one.high or ()) for y in part if y is not None]
    room = 0.04 * (max(ys) - min(ys)) or 0.1 * abs(ys[0]) or 0.1
    axes.set_ylim(min(ys) - room, max(ys) + room)


def _label_ends(canvas: Canvas, axes: Axes, series: Sequence[Series]) -> bool:
    """Write each label beside its last point, moved apart; False, and none written, where they would stray far."""
    axes.margins(x=0.03)
    texts: dict[float, dict[int, Annotation]] = {}  # by the x at which lines end
    for k, one in enumerate(series):
        x, y = max((x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None)
        texts.setdefault(x, {})[k] = axes.annotate(
            clipped(one.label, _LABEL), (x, y), (10, 0), textcoords="offset points", va="center",
            color=sentinel(SERIES[k]),
        )  # fmt: skip
    canvas.draw_without_rendering()
    far = 0.0
    for ended in texts.values():
        heights = {k: float(axes.transData.transform(text.xy)[1]) for k, text in ended.items()}
        for k, place in _apart(heights, FONT + 4).items():
            ended[k].set_position((10, place - heights[k]))
            far = max(far, abs(place - heights[k]))
    if far > 2.5 * FONT:
        for text in (text for ended in texts.values() for text in ended.values()):
            text.remove()
    return far <= 2.5 * FONT


def _apart(heights: dict[int, float], step: float) -> dict[int, float]:
    """Heights moved as little as it takes for each to be a step above the one below it: blocks that meet are pooled."""
    blocks: list[tuple[list[int], float]] = []  # who, and the height of the lowest of them
    for k in sorted(heights, key=lambda k: (heights[k], k)):
        members, low = [k], heights[k]
        while blocks and blocks[-1][1] + step * len(blocks[-1][0]) > low:
            members = [*blocks.pop()[0], *members]
            low = sum(heights[m] - step * place for place, m in enumerate(members)) / len(members)
        blocks.append((members, low))
    return {k: low + step * place for members, low in blocks for place, k in enumerate(members)}
