"""Mean: a control that is as long as the difference in means, along what both classes have in common.

    v = |mu+ - mu-| u,  u the direction of (mu+ + mu-) / 2
    elicit: h' = h + m v        suppress: h' = h - m v

Shapes: d hidden.

What a vector does that this one does too has nothing to do with the concept: it only makes states longer or shorter.
The means are those of the same states as `diffmean`'s, so that both have the same length for the same settings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, check_differ, closed_states, direction_vector
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector


@dataclass(frozen=True)
class MeanSettings(DirectionSettings):
    """Settings of the mean as a control."""


def mean_direction(states: ClassStates) -> Tensor:
    """The mean of the classes' means (d,), as long as their difference.

    Raises:
        InputError: The classes do not differ, so that there is no length, or their means cancel out.
    """
    length = check_differ(states).norm()
    mean = (states.positive_mean.double() + states.negative_mean.double()) / 2
    if not float(mean.norm()) > torch.finfo(torch.float32).eps * float(length):
        raise InputError(f"the means of both classes cancel out at {states.site}, so they have no common direction")
    return (mean / mean.norm() * length).float()


def fit_mean(model: Model, pairs: PairSet, settings: MeanSettings, options: FitOptions) -> SteeringVector:
    """The direction of the mean state, as long as the difference in means.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("mean", model, pairs, settings, options)[Site(settings.layer)]
    return direction_vector("mean", model, pairs, settings, mean_direction(states), states, began)


MEAN = Method(
    name="mean",
    family="control",
    paper="a control",
    summary="the mean state of both classes, as long as the difference of their means, added",
    settings=MeanSettings,
    fit=fit_mean,
)
