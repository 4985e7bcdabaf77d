"""Selective steering: turn every state in one plane by one angle, where the classes lie on opposite sides.

Source: arXiv 2601.19375 (knoveleng/steering).

    b1, b2 as in `trimtab.methods.angular`
    h' = R h,   R = I - P + cos a P + sin a (b2 b1^T - b1 b2^T)
    at the norms k where <mean positive, b1> <mean negative, b1> < 0

elicit turns by the angle from the negative class's means to the positive one's (the circular mean over the norms that
are kept), suppress by as much the other way, or by `angle` degrees; the multiplier scales it.

The paper's "Proposition 1", that the rule of angular steering breaks norms, does not follow: its proof shows h' != h at
angle 0 and takes that for another norm. With orthonormal b1 and b2 that rule keeps every norm exactly. What really
differs is that here the angle is relative, so that no two states become one, and that norms are chosen.

The choice depends on the origin: an offset that both classes share makes their signs equal, and no norm is left.
`centre` takes one off before the signs are read: `midpoint`, the middle of the two means (then nearly every norm at
which the classes differ is kept), or `neutral`, the mean of other prompts, named by `neutral`.

Shapes: d hidden, k norms.

Deviations: the published code reads the signs of mean projections of states brought to length 1
(`projections="normalised"`) and keeps a block only if all its norms pass (`whole_blocks`); the default is the paper's
rule. The code's optimiser of the plane is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet, load_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.norm_sites import check_choice, places
from trimtab.fitting.planes import agreed_plane, angles, candidates, mean_angle, opposite
from trimtab.fitting.states import ClassStates
from trimtab.methods.angular import PlaneSettings
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Edit, Intervention, Positions, RotateBy, Site, SteeringVector
from trimtab.steering.content import JSON

CENTRES = (None, "midpoint", "neutral")
PROJECTIONS = ("means", "normalised")
SMALLEST = 1e-3
"""Radians. A smaller angle between the classes turns nothing."""


@dataclass(frozen=True)
class SelectiveSettings(PlaneSettings):
    """Settings of selective steering.

    Args:
        centre: What is taken off before signs are read: None (published), `midpoint` or `neutral`.
        neutral: Pairs whose negative prompts are neutral (a file, or a name of `datasets`), for `neutral`.
        projections: `means` (the paper) or `normalised` (its code).
        whole_blocks: Keep a block's norms only if all of them pass, as the published code does.

    Raises:
        InputError: A setting outside its range, or neutral prompts that are missing or not asked for.
    """

    centre: str | None = None
    neutral: str | None = None
    projections: str = "means"
    whole_blocks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("centre", self.centre, CENTRES)
        check_choice("projections", self.projections, PROJECTIONS)
        check_choice("whole_blocks", self.whole_blocks, (False, True))
        if (self.centre == "neutral") != (self.neutral is not None):
            raise InputError(
                f"centre is {self.centre!r} and neutral {self.neutral!r}; centre='neutral' and pairs with neutral "
                "prompts belong together"
            )


def fit_selective(model: Model, pairs: PairSet, settings: SelectiveSettings, options: FitOptions) -> SteeringVector:
    """One plane, the angle between the classes in it, and the norms at which they lie on opposite sides.

    Raises:
        InputError: No pairs or such that do not fit the context, classes that do not differ, directions that span no
            plane, no norm at which the classes lie on opposite sides, no angle between them, or a start vector, order
            or trace, which it has no use for.
    """
    began = time.monotonic()
    sites, reason = places(model, settings.sites, range(model.n_blocks))
    read = closed_states("selective", model, pairs, settings.closed(settings.reading), options, sites)
    states = [read[site] for site in sites]
    units, _ = candidates(states)
    plane = agreed_plane(units)
    kept = kept_sites(states, plane[0], settings, _centres(model, sites, settings, options))
    angle = _angle([read[site] for site in kept], plane)
    angle = angle if settings.angle is None else math.radians(settings.angle)
    positions = Positions.parse(settings.positions)
    edits = tuple(
        Edit(Intervention(site, RotateBy(plane, torch.tensor(sign * angle)), positions), scales="transform")
        for sign in (1.0, -1.0)
        for site in kept
    )
    m = len(kept)
    figures: dict[str, JSON] = {
        "kept": [str(site) for site in kept],
        "of": len(sites),
        "degrees": round(math.degrees(angle), 2),
        **({"sites": reason} if reason else {}),
    }
    directions = {"elicit": tuple(range(m)), "suppress": tuple(range(m, 2 * m))}
    return closed_vector("selective", model, pairs, settings, edits, directions, began, figures)


def kept_sites(
    states: Sequence[ClassStates],
    axis: Tensor,
    settings: SelectiveSettings,
    centres: Mapping[Site, Tensor] | None = None,
) -> list[Site]:
    """The sites at which the classes' projections on the axis (d,) have opposite signs, each less its site's centre.

    Raises:
        InputError: There is none.
    """
    sides = torch.stack([_projections(here, axis, settings, centres) for here in states])  # (k, 2)
    passes = opposite(sides[:, 0], sides[:, 1]).tolist()
    kept = [here.site for here, good in zip(states, passes, strict=True) if good]
    if settings.whole_blocks:
        failing = {here.site.layer for here, good in zip(states, passes, strict=True) if not good}
        kept = [site for site in kept if site.layer not in failing]
    if not kept:
        hint = "" if settings.centre else "; take off what they share with centre='midpoint'"
        raise InputError(
            f"both classes lie on the same side of the plane's first axis at all {len(states)} sites, so none is "
            f"selected{hint or '; choose another method, such as angular'}"
        )
    return kept


def _projections(
    here: ClassStates, axis: Tensor, settings: SelectiveSettings, centres: Mapping[Site, Tensor] | None
) -> Tensor:
    """The positive and the negative class's projection, (2,) float64."""
    if settings.centre == "midpoint":
        centre = (here.positive_mean.double() + here.negative_mean.double()) / 2
    else:
        centre = torch.zeros_like(axis) if centres is None else centres[here.site].double()
    found: list[Tensor] = []
    for mean, rows in ((here.positive_mean, here.positive), (here.negative_mean, here.negative)):
        if settings.projections == "means":
            found.append((mean.double() - centre) @ axis)
        else:
            found.append((torch.nn.functional.normalize(rows.double() - centre, dim=1) @ axis).mean())
    return torch.stack(found)


def _centres(
    model: Model, sites: Sequence[Site], settings: SelectiveSettings, options: FitOptions
) -> Mapping[Site, Tensor] | None:
    """The mean states of the neutral prompts, by site."""
    if settings.neutral is None:
        return None
    neutral = load_pairs(settings.neutral)
    read = closed_states("selective", model, neutral, settings.closed(settings.reading), options, sites)
    return {site: read[site].negative_mean for site in sites}


def _angle(states: Sequence[ClassStates], plane: Tensor) -> float:
    """From the negative class's means to the positive class's."""
    first, second = (
        angles(torch.stack(means), plane)
        for means in ([s.negative_mean for s in states], [s.positive_mean for s in states])
    )
    angle = mean_angle(second - first)
    if abs(angle) < SMALLEST:
        raise InputError(
            f"the classes' means are {math.degrees(abs(angle)):.2g} degrees apart in the plane, so there is nothing to "
            "turn by; give angle in degrees, or pairs that differ more"
        )
    return angle


SELECTIVE = Method(
    name="selective",
    family="rotation",
    paper="arXiv 2601.19375",
    summary="turn states in one plane by one angle, after the norms where the classes lie on opposite sides",
    settings=SelectiveSettings,
    fit=fit_selective,
    places="model",
)
