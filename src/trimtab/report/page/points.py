"""Scatter plots: points with their intervals as crosses, and labels that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.report.page.blocks import Better, Point, Scatter
from trimtab.report.page.lines import Drawing
from trimtab.report.page.palette import sentinel
from trimtab.report.page.svg import FONT, clipped, drawing, inline, label_axes, logarithmic_x, new_canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_TOWARDS = {
    ("x", "higher"): "better \N{RIGHTWARDS ARROW}",
    ("x", "lower"): "\N{LEFTWARDS ARROW} better",
    ("y", "higher"): "\N{UPWARDS ARROW} better",
    ("y", "lower"): "\N{DOWNWARDS ARROW} better",
}
_DISTANCES = (7, 16, 28, 42)
"""Pixels between a point and its label that are tried, nearest first."""
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8))

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in pixels."""


def draw_scatter(scatter: Scatter, width: int, salt: str) -> Drawing:
    """A scatter at a width in pixels.

    Args:
        scatter: It has at least one point.
        width: Of the figure.
        salt: Not used by another figure of the page.
    """
    names = ", ".join(point.label for point in scatter.points)
    axes_named = f"{scatter.y} against {scatter.x}"
    name = f"Scatter plot, {scatter.title}: {axes_named}, for {names}. The numbers are in the table below it."
    with drawing(salt):
        canvas = new_canvas(width, min(440, width + 40))
        axes = canvas.subplots()
        _crosses(axes, scatter.points)
        axes.grid(True)
        axes.margins(0.08)
        x = _named(scatter.x, "x", scatter.better_x)
        label_axes(axes, x, _named(scatter.y, "y", scatter.better_y), width - 40)
        _label_points(canvas, axes, scatter.points, width)
        return Drawing(inline(canvas, name))


def _named(label: str, axis: str, better: Better | None) -> str:
    return label if better is None else f"{label} ({_TOWARDS[axis, better]})"


def _crosses(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        if point.x_low is not None and point.x_high is not None:
            axes.plot([point.x_low, point.x_high], [point.y, point.y], color=sentinel("accent"), alpha=0.4, lw=1.3)
        if point.y_low is not None and point.y_high is not None:
            axes.plot([point.x, point.x], [point.y_low, point.y_high], color=sentinel("accent"), alpha=0.4, lw=1.3)
    axes.plot(
        [point.x for point in points], [point.y for point in points], "o", color=sentinel("accent"), markersize=7,
        markeredgecolor=sentinel("ground"), markeredgewidth=1.2, zorder=3,
    )  # fmt: skip
    sizes = [end for point in points for end in (point.x, point.x_high) if end is not None]
    lows = [end for point in points for end in (point.x, point.x_low) if end is not None]
    if min(lows) > 0 and max(sizes) / min(lows) > 100:
        logarithmic_x(axes)


def _label_points(canvas: Canvas, axes: Axes, points: Sequence[Point], width: int) -> None:
    """Write each label at the first of the places around its point where it covers least of what is there."""
    canvas.draw_without_rendering()
    transform = axes.transData.transform
    frame = axes.get_window_extent()
    inside = (frame.x0, frame.y0, frame.x1, frame.y1)
    spots = [tuple(map(float, transform((point.x, point.y)))) for point in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    arms = [box for point in points for box in _arms(point, transform)]
    for point, (x, y) in sorted(zip(points, spots, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])):
        text = clipped(point.label, width / 3)
        size = (0.6 * FONT * len(text), FONT + 2)
        ways = [(side, distance) for distance in _DISTANCES for side in _SIDES]
        boxes = [_box((x, y), side, distance, size) for side, distance in ways]
        best = min(range(len(boxes)), key=lambda k: (_cost(boxes[k], taken, arms, inside) + ways[k][1] / 4, k))
        taken.append(boxes[best])
        side, distance = ways[best]
        left, bottom, right, top = boxes[best]
        line = {"arrowstyle": "-", "color": sentinel("faint"), "lw": 0.8, "shrinkA": 0, "shrinkB": 3}
        align = "left" if side[0] > 0 else "right" if side[0] < 0 else "center"
        at = {"left": left, "right": right, "center": (left + right) / 2}[align]
        axes.annotate(
            text, (point.x, point.y), (at - x, (bottom + top) / 2 - y), textcoords="offset points", ha=align,
            va="center", arrowprops=line if distance > _DISTANCES[0] else None, zorder=4,
        )  # fmt: skip


def _arms(point: Point, transform: Callable[..., Any]) -> list[Box]:
    """The boxes of a point's interval lines."""
    found = []
    if point.x_low is not None and point.x_high is not None:
        (left, y), (right, _) = transform([(point.x_low, point.y), (point.x_high, point.y)])
        found.append((left, y - 1, right, y + 1))
    if point.y_low is not None and point.y_high is not None:
        (x, bottom), (_, top) = transform([(point.x, point.y_low), (point.x, point.y_high)])
        found.append((x - 1, bottom, x + 1, top))
    return found


def _box(spot: tuple[float, ...], side: tuple[float, float], distance: float, size: tuple[float, float]) -> Box:
    """Where a label lies that stands on one side of a point, so many pixels away."""
    x, y = spot[0] + side[0] * distance, spot[1] + side[1] * (distance + size[1] / 2)
    left = x if side[0] > 0 else x - size[0] if side[0] < 0 else x - size[0] / 2
    return left, y - size[1] / 2, left + size[0], y + size[1] / 2


def _cost(box: Box, taken: Sequence[Box], arms: Sequence[Box], inside: Box) -> float:
    """How much a label would hide: other labels and points most, interval lines little; it may not leave the frame."""
    outside = max(0.0, inside[0] - box[0]) + max(0.0, box[2] - inside[2])
    outside += max(0.0, inside[1] - box[1]) + max(0.0, box[3] - inside[3])
    area = sum(_shared(box, other) for other in taken)
    crossed = sum(_shared(box, arm) > 0 for arm in arms)
    return 100 * outside + 3 * area + 2.5 * crossed


def _shared(one: Box, other: Box) -> float:
    """Area that two boxes have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0
