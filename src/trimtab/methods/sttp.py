"""StTP, steering to a target projection: tokens on the wrong side of a probe's boundary go to a class's coordinate.

Source: arXiv 2604.08169; there is no official code.

    w, b: logistic regression of the classes' mean response states,  v = w / |w|,  boundary = -b / |w|
    p = <v, h>;  mu, sigma: mean and deviation of a class's p
    elicit:   h' = h + (mu+ + alpha sigma+ - p) v  where p < boundary, h elsewhere
    suppress: h' = h + (mu- - alpha sigma- - p) v  where p > boundary, h elsewhere

Shapes: d hidden.

The multiplier moves the target along the line from the other class's mean coordinate (0) to the target as above (1);
the boundary stays where it is. Applied twice the edit does what it does once.

The paper elicits only; suppression is its mirror image. The paper's responses are the model's own, with and without a
system prompt; here they are those of the pairs. The regularisation is not stated; it is c = 1 on standardised columns.
The paper tries alpha up to 36, which is far outside anything that a class does; the default is 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.boundary import Boundary, BoundarySettings, above, below, find_boundary
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Clamp, Edit, Factors, FactorStats, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class StTPSettings(BoundarySettings):
    """Settings of StTP.

    Args:
        alpha: How many deviations beyond its class's mean the target lies at multiplier 1.
    """


def target_edits(boundary: Boundary, settings: StTPSettings) -> tuple[Edit, Edit]:
    """What elicits and what suppresses."""
    v, m, positions = boundary.direction, boundary.threshold, Positions.parse(settings.positions)
    high, low = _beyond(boundary.positive, settings.alpha), _beyond(boundary.negative, -settings.alpha)
    edits = []
    for direction, gate, factors in (
        ("elicit", below(v, m), Factors(high, boundary.negative)),
        ("suppress", above(v, m), Factors(boundary.positive, low)),
    ):
        clamp = Clamp(v, factors.value(direction, 1.0))
        edits.append(Edit(Intervention(Site(settings.layer), clamp, positions, gate), factors))
    return edits[0], edits[1]


def _beyond(stats: FactorStats, deviations: float) -> FactorStats:
    """A class as if it lay so many of its deviations higher."""
    mean = stats.mean[0] + deviations * stats.std[0]
    return FactorStats((mean,), stats.std, stats.n)


def fit_sttp(model: Model, pairs: PairSet, settings: StTPSettings, options: FitOptions) -> SteeringVector:
    """Targets on both sides of the probe's boundary.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that a probe
            cannot tell apart, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("sttp", model, pairs, settings, options)[Site(settings.layer)]
    boundary, figures = find_boundary(states, c=settings.c)
    edits, directions = target_edits(boundary, settings), {"elicit": (0,), "suppress": (1,)}
    return closed_vector("sttp", model, pairs, settings, edits, directions, began, figures)


STTP = Method(
    name="sttp",
    family="closed-form",
    paper="arXiv 2604.08169",
    summary="the coordinate along a probe's weight set to a class's, where it lies on the other side of the boundary",
    settings=StTPSettings,
    fit=fit_sttp,
)
