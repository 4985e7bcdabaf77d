"""Angular steering: turn every state's part in one plane to one angle.

Source: arXiv 2510.26243 (lone17/angular-steering).

    candidates d_k = unit(mean positive - mean negative) at the prompt's last token, after every norm k
    b1 = the candidate with the greatest mean cosine to all;   b2 = PC1 of the candidates, orthogonal to b1
    h' = h - P h + |P h| (cos a * e1 + sin a * b2),   P the projection on the plane, e1 = -b1 to elicit, b1 to suppress

at every norm's output, on all tokens. The angle counts from the ray that the direction leads away from, so that a
larger multiplier always leads further: elicit at 0 degrees is straight away from the concept and at 180 straight
towards it, suppress the other way round. Multiplier 1 is the angle at which the wanted class's own means lie (the
circular mean over the norms), or `angle` if that is given.

With `adaptive` only tokens on the side that is left are turned: <h, b1> > 0 to suppress, as published, < 0 to elicit.

Shapes: d hidden, k norms.

Deviations: norms where the classes' means are equal (the first one, where all prompts end in the same token) have no
candidate, but are edited with the others; b2's sign is that of the candidates' mean. In families without norms at the
entrance of their branches (OLMo 2) block outputs are read and edited, and the provenance says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.norm_sites import SITES, ReadSettings, check_choice, places
from trimtab.fitting.planes import agreed_plane, angles, candidates, mean_angle
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Always, Edit, Intervention, Positions, ProjectionGate, RotateTo, SteeringVector
from trimtab.steering.content import JSON


@dataclass(frozen=True)
class PlaneSettings(ReadSettings):
    """What both rotations have to be told.

    Args:
        reading: `last`, the prompt's last token, as published.
        sites: `norm_out` (published) or `resid_post`.
        angle: In degrees, what multiplier 1 means; None = read from the data.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "last"
    sites: str = "norm_out"
    angle: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("sites", self.sites, SITES)
        if self.angle is not None:
            check_number("angle", self.angle, least=-360, most=360)


@dataclass(frozen=True)
class AngularSettings(PlaneSettings):
    """Settings of angular steering.

    Args:
        adaptive: Turn only tokens on the side of the plane's first axis that the direction leads away from.

    Raises:
        InputError: A setting outside its range.
    """

    adaptive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("adaptive", self.adaptive, (False, True))


def fit_angular(model: Model, pairs: PairSet, settings: AngularSettings, options: FitOptions) -> SteeringVector:
    """One plane, and the angle of each class in it.

    Raises:
        InputError: No pairs or such that do not fit the context, classes that do not differ, directions that span no
            plane, or a start vector, order or trace, which it has no use for.
    """
    began = time.monotonic()
    sites, reason = places(model, settings.sites, range(model.n_blocks))
    read = closed_states("angular", model, pairs, settings.closed(settings.reading), options, sites)
    states = [read[site] for site in sites]
    units, where = candidates(states)
    plane = agreed_plane(units)
    positions = Positions.parse(settings.positions)
    edits: list[Edit] = []
    figures: dict[str, JSON] = {"candidates": len(where), **({"sites": reason} if reason else {})}
    for way, sign in (("elicit", -1.0), ("suppress", 1.0)):
        rows = torch.stack([sign * plane[0], plane[1]])
        angle = class_angle(states, where, rows, is_positive=sign < 0)
        if settings.angle is not None:
            angle = math.radians(settings.angle)
        gate = ProjectionGate(sign * plane[0]) if settings.adaptive else Always()
        rotation = RotateTo(rows, torch.tensor(angle))
        edits += [Edit(Intervention(site, rotation, positions, gate), scales="transform") for site in sites]
        figures[f"degrees_{way}"] = round(math.degrees(angle), 2)
    m = len(sites)
    directions = {"elicit": tuple(range(m)), "suppress": tuple(range(m, 2 * m))}
    return closed_vector("angular", model, pairs, settings, tuple(edits), directions, began, figures)


def class_angle(states: list[ClassStates], where: list[int], plane: Tensor, *, is_positive: bool) -> float:
    """At what angle in a plane a class's means lie, over the sites at which the classes differ."""
    means = [states[k].positive_mean if is_positive else states[k].negative_mean for k in where]
    return mean_angle(angles(torch.stack(means), plane))


ANGULAR = Method(
    name="angular",
    family="rotation",
    paper="arXiv 2510.26243",
    summary="turn every state's part in one plane to one angle, after every norm",
    settings=AngularSettings,
    fit=fit_angular,
    places="model",
)
