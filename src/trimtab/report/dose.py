"""The dose-response figure: how a score moves with the multiplier, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = {"elicit": "#1f4e79", "suppress": "#b5542b"}
MOST = 2.0
"""The best score there is."""


@dataclass(frozen=True)
class Dose:
    """What one vector does at several multipliers.

    Attributes:
        name: Of the concept.
        curves: For each direction (multiplier, score 0 to 2), by multiplier.
        chosen: The calibrated multiplier of each direction.
        prompted: Score of the plain model on prompts that carry the concept.
    """

    name: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    chosen: Mapping[str, float]
    prompted: float


def draw_doses(doses: Sequence[Dose], path: Path) -> None:
    """Draws one panel a vector: both directions, the calibrated multipliers, and what prompting reaches.

    Args:
        doses: At least one.
        path: Where to write; its ending decides the format.

    """
    from matplotlib.figure import Figure as Canvas  # takes a second to load

    canvas = Canvas(figsize=(1 + 3 * len(doses), 3.4), layout="constrained")
    panels = canvas.subplots(1, len(doses), sharey=True, squeeze=False)[0]
    for axes, dose in zip(panels, doses, strict=True):
        for direction, curve in dose.curves.items():
            colour = COLOURS[direction]
            axes.plot(*zip(*curve, strict=True), color=colour, marker=".", label=direction)
            m = dose.chosen[direction]
            at = dict(curve).get(m)
            if at is not None:
                axes.plot([m], [at], color=colour, marker="o", markersize=9, fillstyle="none", linestyle="none")
        axes.axhline(dose.prompted, color="#777", linestyle=":", linewidth=1, label="prompted")
        axes.set_title(dose.name)
        axes.set_xlabel("multiplier")
        axes.set_ylim(-0.1, MOST + 0.1)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score, 0 to 2 (circle: calibrated)")
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    canvas.savefig(path, dpi=150)
