"""Random: a control that is as long as the difference in means, along a direction that is drawn.

    v = |mu+ - mu-| u,  u uniform on the sphere, drawn with the seed
    elicit: h' = h + m v        suppress: h' = h - m v

Shapes: d hidden.

What a vector does that this one does too comes from its length, not from its direction. The means are those of the same
states as `diffmean`'s, so that both have the same length for the same settings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, check_differ, closed_states, direction_vector
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector


@dataclass(frozen=True)
class RandomSettings(DirectionSettings):
    """Settings of the random control; `seed` draws the direction."""


def random_direction(states: ClassStates, seed: int) -> Tensor:
    """A drawn direction (d,), as long as the difference of the means.

    Raises:
        InputError: The classes do not differ, so that there is no length.
    """
    length = check_differ(states).norm()
    drawn = torch.randn(len(states.positive_mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm() * length).float()


def fit_random(model: Model, pairs: PairSet, settings: RandomSettings, options: FitOptions) -> SteeringVector:
    """A drawn direction, as long as the difference in means.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("random", model, pairs, settings, options)[Site(settings.layer)]
    direction = random_direction(states, settings.seed)
    return direction_vector("random", model, pairs, settings, direction, states, began)


RANDOM = Method(
    name="random",
    family="control",
    paper="a control",
    summary="a random direction, as long as the difference of the classes' means, added",
    settings=RandomSettings,
    fit=fit_random,
)
