"""A direction with a boundary on it: what a probe says, in units of the coordinate along its weight.

Letters: n rows of a class, d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.closed import ClosedSettings, auroc
from trimtab.fitting.logistic import Probe, fit_probe
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import ClassStates
from trimtab.steering import FactorStats, ProjectionGate
from trimtab.steering.content import JSON


@dataclass(frozen=True)
class BoundarySettings(ClosedSettings):
    """Settings of a closed form that steers by a probe's boundary.

    Args:
        reading: What is learnt from; the mean of the response's tokens by default.
        alpha: How far an edit goes at multiplier 1, in the method's own units.
        c: Inverse strength of the probe's regularisation.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "response"
    alpha: float = 1.0
    c: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, least=0)
        check_number("c", self.c, above=0)


@dataclass(frozen=True, eq=False)
class Boundary:
    """Where a probe changes its mind, and where the classes lie.

    Attributes:
        direction: v = w / |w|, (d,) float32, towards the positive class.
        threshold: m, the coordinate <v, h> at which the probe gives both classes the same chance.
        steepness: |w|: the probe's logit is |w| (<v, h> - m).
        positive: The positive rows' coordinates.
        negative: The negative rows'.
    """

    direction: Tensor
    threshold: float
    steepness: float
    positive: FactorStats
    negative: FactorStats

    @classmethod
    def of(cls, probe: Probe, states: ClassStates) -> Boundary:
        """The boundary of a probe of these states.

        Raises:
            InputError: The probe has no direction.
        """
        weight = probe.weight.double()
        norm = float(weight.norm())
        if not norm > 0 or not math.isfinite(norm):
            raise InputError(
                f"the probe found no direction at {states.site}; give pairs that differ more, or another c"
            )
        direction = (weight / norm).float()
        positive, negative = (
            FactorStats.of((rows.double() @ direction.double())[:, None]) for rows in (states.positive, states.negative)
        )
        return cls(direction, -probe.bias / norm, norm, positive, negative)

    @property
    def gap(self) -> float:
        """How far the classes' mean coordinates are apart; positive where the positive class lies above."""
        return self.positive.mean[0] - self.negative.mean[0]

    def check_sides(self, states: ClassStates) -> None:
        """Raise InputError unless the positive class lies above the negative one."""
        if not self.gap > 0:
            raise InputError(
                f"the positive class does not lie above the negative one along the probe of {states.site} (mean "
                f"coordinates {self.positive.mean[0]:g} and {self.negative.mean[0]:g}); give other pairs or a larger c"
            )

    def coordinate(self, logit: float) -> float:
        """Where the probe's logit is so much."""
        return self.threshold + logit / self.steepness


def find_boundary(states: ClassStates, *, c: float) -> tuple[Boundary, dict[str, JSON]]:
    """The boundary of the logistic probe of two classes, and what is worth keeping of the fit.

    Raises:
        InputError: Too few rows, constant ones, or classes that the probe cannot tell apart.
    """
    probe = fit_probe(states.positive, states.negative, c=c)
    boundary = Boundary.of(probe, states)
    boundary.check_sides(states)
    area = auroc(boundary.direction, states)
    return boundary, {"accuracy": probe.accuracy, "auroc": area, "boundary": boundary.threshold}


def above(direction: Tensor, threshold: float) -> ProjectionGate:
    """Open where <v, h> > threshold, shut elsewhere; direction v (d,)."""
    return ProjectionGate(direction, threshold)


def below(direction: Tensor, threshold: float) -> ProjectionGate:
    """Open where <v, h> < threshold, shut elsewhere; direction v (d,)."""
    return ProjectionGate(-direction, -threshold)
