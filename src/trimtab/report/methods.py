"""The figure of the methods: effect against side effects, a point a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("#1f4e79", "#b5542b", "#4f7d3a", "#7a4b94", "#b08a1e", "#555555")
MARKS = ("o", "s", "^")
"""Of families: the first with every colour, then the second."""
LEAST = 1e-3
"""Side effects below this are drawn here: the axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """One method, on average over the concepts.

    Attributes:
        name: Of the method.
        family: Its points share a colour.
        effect: Score, 0 to 2, with the ends of its interval.
        side_effect: KL to the plain model on unrelated prompts, nats a token, with the ends of its interval.
    """

    name: str
    family: str
    effect: tuple[float, float, float]
    side_effect: tuple[float, float, float]


def draw_methods(panels: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draws one panel a direction.

    Args:
        panels: By title, the points.
        path: Where to write; its ending decides the format.
    """
    from matplotlib.figure import Figure as Canvas  # takes a second to load

    families = list(dict.fromkeys(point.family for points in panels.values() for point in points))
    colours = {family: COLOURS[k % len(COLOURS)] for k, family in enumerate(families)}
    marks = {family: MARKS[k // len(COLOURS) % len(MARKS)] for k, family in enumerate(families)}
    canvas = Canvas(figsize=(7.5 * len(panels), 7), layout="constrained")
    for axes, (title, points) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for point in points:
            x, *across = (max(LEAST, value) for value in point.side_effect)
            y, *along = point.effect
            colour = colours[point.family]
            axes.plot(across, [y, y], color=colour, alpha=0.25, linewidth=1)
            axes.plot([x, x], along, color=colour, alpha=0.25, linewidth=1)
            axes.plot([x], [y], color=colour, marker=marks[point.family], linestyle="none", markersize=5)
        for point, (x, y) in zip(points, _spread([(max(LEAST, p.side_effect[0]), p.effect[0]) for p in points]),
                                 strict=True):  # fmt: skip
            at = (max(LEAST, point.side_effect[0]), point.effect[0])
            line = {"arrowstyle": "-", "color": colours[point.family], "alpha": 0.3, "lw": 0.6}
            axes.annotate(
                point.name, at, (x, y), fontsize=7.5, color=colours[point.family], va="center", arrowprops=line
            )
        axes.set_xscale("log")
        axes.set_ylim(-0.08, 2.1)
        axes.set_xlim(LEAST * 0.8, 10)
        axes.set_title(title)
        axes.set_xlabel("side effect: KL to the plain model on unrelated prompts, nats a token")
        axes.set_ylabel("effect: score of the exact judge, 0 to 2")
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        canvas.axes[0].plot([], [], color=colours[f], marker=marks[f], linestyle="none", label=f)[0] for f in families
    ]
    canvas.legend(handles=handles, loc="outside upper center", ncols=len(families), frameon=False)
    canvas.savefig(path, dpi=140)


def _spread(points: Sequence[tuple[float, float]], *, step: float = 0.042) -> list[tuple[float, float]]:
    """Where labels go: right of their points, moved up or down until those that are near do not meet."""
    placed: list[tuple[float, float]] = []
    order = sorted(range(len(points)), key=lambda k: points[k][1])
    found: dict[int, tuple[float, float]] = {}
    for k in order:
        x, y = points[k]
        x *= 1.12
        while any(abs(y - other_y) < step and 1 / 2.2 < x / other_x < 2.2 for other_x, other_y in placed):
            y += step / 4
        placed.append((x, y))
        found[k] = (x, y)
    return [found[k] for k in range(len(points))]
