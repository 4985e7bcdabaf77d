"""SwFC, steering with a fixed coefficient: the classes' gap along a probe's weight, added everywhere.

Source: arXiv 2604.08169; there is no official code.

    w, b: logistic regression of the classes' mean response states,  v = w / |w|,  gap = <v, mu+ - mu->
    elicit: h' = h + m alpha gap v        suppress: h' = h - m alpha gap v

Shapes: d hidden.

The ungated one of three rules of one paper; `sttp` and `stmp` move only tokens on the wrong side of the boundary. In
the paper's long chats it is the one that repeats itself. The paper's responses are the model's own, with and without a
system prompt; here they are those of the pairs. The regularisation is not stated; it is c = 1 on standardised columns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.boundary import Boundary, BoundarySettings, find_boundary
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class SwFCSettings(BoundarySettings):
    """Settings of SwFC.

    Args:
        alpha: What is added at multiplier 1, in units of the classes' gap.
    """


def fixed_edits(boundary: Boundary, settings: SwFCSettings) -> tuple[Edit, Edit]:
    """What elicits and what suppresses."""
    shift, positions = settings.alpha * boundary.gap * boundary.direction, Positions.parse(settings.positions)
    up, down = (Intervention(Site(settings.layer), Add(sign * shift), positions) for sign in (1.0, -1.0))
    return Edit(up, scales="strength"), Edit(down, scales="strength")


def fit_swfc(model: Model, pairs: PairSet, settings: SwFCSettings, options: FitOptions) -> SteeringVector:
    """The gap along the probe's weight.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that a probe
            cannot tell apart, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("swfc", model, pairs, settings, options)[Site(settings.layer)]
    boundary, figures = find_boundary(states, c=settings.c)
    edits, directions = fixed_edits(boundary, settings), {"elicit": (0,), "suppress": (1,)}
    return closed_vector("swfc", model, pairs, settings, edits, directions, began, figures)


SWFC = Method(
    name="swfc",
    family="closed-form",
    paper="arXiv 2604.08169",
    summary="the classes' gap along a probe's weight, added to every token",
    settings=SwFCSettings,
    fit=fit_swfc,
)
