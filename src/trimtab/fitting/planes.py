"""Planes in which states are rotated, and where the classes lie in them. Letters: k sites, n rows, d width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.states import ClassStates

SAME = 1e-6
"""Means nearer than so much of their length do not differ: a site where all rows have the same last token."""
FLAT = 1e-6
"""Candidates that spread less than this off the first axis span no plane."""


def candidates(states: Sequence[ClassStates]) -> tuple[Tensor, list[int]]:
    """The unit differences of the classes' means (k, d) float64, and the places of their sites in the list.

    Sites at which the means do not differ have none.

    Raises:
        InputError: They differ nowhere.
    """
    found: list[Tensor] = []
    where: list[int] = []
    for number, here in enumerate(states):
        gap = here.difference.double()
        if float(gap.norm()) > SAME * max(float(here.positive_mean.norm()), float(here.negative_mean.norm()), 1e-30):
            found.append(gap / gap.norm())
            where.append(number)
    if not found:
        raise InputError(
            f"both classes have the same mean state at all {len(states)} sites; give pairs that differ, or another "
            "reading than 'last' if only the responses do"
        )
    return torch.stack(found), where


def agreeing(units: Tensor) -> int:
    """The one of unit rows (k, d) that has the greatest mean cosine with all of them."""
    return int((units @ units.T).mean(dim=1).argmax())


def agreed_plane(units: Tensor) -> Tensor:
    """b1, the row that agrees most, and b2, the first principal component of the rows, made orthogonal to b1: (2, d).

    b2 points to where the rows have their mean, of two signs the one that data can tell.

    Raises:
        InputError: The rows (k, d) span no plane.
    """
    first = units[agreeing(units)]
    centred = units - units.mean(dim=0)
    component = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    second = component - (component @ first) * first
    spread = float((centred - (centred @ first)[:, None] * first).norm())
    if len(units) < 2 or spread < FLAT or float(second.norm()) < FLAT:
        raise InputError(
            f"the directions of {len(units)} sites are all alike and span no plane; edit more blocks, or choose a "
            "method with one direction"
        )
    second = second / second.norm()
    second = second - (second @ first) * first  # once more, for rounding
    second = second / second.norm()
    sign = -1.0 if float(units.mean(dim=0) @ second) < 0 else 1.0
    return torch.stack([first, sign * second])


def angles(means: Tensor, plane: Tensor) -> Tensor:
    """The angle of each mean (k, d) in the plane (2, d), from its first axis towards its second, radians (k,)."""
    inside = means.double() @ plane.double().T
    return torch.atan2(inside[:, 1], inside[:, 0])


def mean_angle(values: Tensor) -> float:
    """The mean direction of angles (k,), in (-pi, pi]."""
    return math.atan2(float(values.sin().mean()), float(values.cos().mean()))


def opposite(positive: Tensor, negative: Tensor) -> Tensor:
    """Whether the classes' projections (k,) on the common direction have opposite signs: (k,) bool."""
    return positive * negative < 0
