"""StMP, steering to the mirrored projection: tokens on the wrong side of a probe's boundary are mirrored at it.

Source: arXiv 2604.08169; there is no official code.

    w, b: logistic regression of the classes' mean response states,  v = w / |w|,  boundary = -b / |w|,  p = <v, h>
    elicit:   h' = h + 2 m alpha (boundary - p) v  where p < boundary, h elsewhere
    suppress: h' = h + 2 m alpha (boundary - p) v  where p > boundary, h elsewhere

Shapes: d hidden.

m alpha = 1 mirrors, 1/2 brings the token to the boundary, 0 changes nothing. It is the clamp to the boundary with a
strength of 2 m alpha.

The paper elicits only; suppression is its mirror image. The paper's responses are the model's own, with and without a
system prompt; here they are those of the pairs. The regularisation is not stated; it is c = 1 on standardised columns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.boundary import Boundary, BoundarySettings, above, below, find_boundary
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Clamp, Edit, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class StMPSettings(BoundarySettings):
    """Settings of StMP.

    Args:
        alpha: 1 mirrors tokens at the boundary at multiplier 1, 0.5 brings them there.
    """


def mirror_edits(boundary: Boundary, settings: StMPSettings) -> tuple[Edit, Edit]:
    """What elicits and what suppresses."""
    v, m, positions = boundary.direction, boundary.threshold, Positions.parse(settings.positions)
    clamp = Clamp(v, torch.tensor([m]))
    up, down = (
        Intervention(Site(settings.layer), clamp, positions, gate, 2 * settings.alpha)
        for gate in (below(v, m), above(v, m))
    )
    return Edit(up, scales="strength"), Edit(down, scales="strength")


def fit_stmp(model: Model, pairs: PairSet, settings: StMPSettings, options: FitOptions) -> SteeringVector:
    """The mirror at the probe's boundary.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that a probe
            cannot tell apart, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("stmp", model, pairs, settings, options)[Site(settings.layer)]
    boundary, figures = find_boundary(states, c=settings.c)
    edits, directions = mirror_edits(boundary, settings), {"elicit": (0,), "suppress": (1,)}
    return closed_vector("stmp", model, pairs, settings, edits, directions, began, figures)


STMP = Method(
    name="stmp",
    family="closed-form",
    paper="arXiv 2604.08169",
    summary="tokens on the wrong side of a probe's boundary, mirrored at it",
    settings=StMPSettings,
    fit=fit_stmp,
)
