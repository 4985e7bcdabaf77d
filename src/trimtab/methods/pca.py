"""PCA: the direction in which states of the two classes spread most.

Source: Zou et al., "Representation Engineering", arXiv 2310.01405 (differences of pairs); as a steering baseline
AxBench, arXiv 2501.17148 (states of the positive class).

    of="differences": first principal component of h+_i - h-_i, i a pair
    of="states":      of the states of both classes
    of="positive":    of the states of the positive class alone
    v = the component, towards the positive class, as long as the gap of the means along it
    elicit: h' = h + m v        suppress: h' = h - m v

Shapes: d hidden, n rows.

Differences are taken about zero by default and states about their mean. About their own mean the differences lose what
they have in common, which is the concept; repositories that do so nevertheless (such as wang2226/CI-Steering) get
whatever varies most among pairs, and have it here with `centre=True`. RepE centres too, but gives every difference a
random sign before, which makes the mean nearly zero: the same as about zero.

Deviations from the published code: a component has no sign; AxBench leaves it to chance, here it points along the
difference of the means. AxBench takes the positive tokens' component (`of="positive"`, `reading="tokens"`), to which
nothing tells what the concept is: its scores are near those of a random direction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, check_paired, closed_states, direction_vector, sized
from trimtab.fitting.principal import first_component
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector

ROWS = ("differences", "states", "positive")


@dataclass(frozen=True)
class PCASettings(DirectionSettings):
    """Settings of PCA.

    Args:
        reading: What is learnt from; the mean of each row's tokens by default.
        of: Whose component: `differences` of pairs, `states` of both classes, or `positive` states alone.
        centre: About the rows' mean (True) or about zero (False); None: differences about zero, states about the mean.

    Raises:
        InputError: A setting outside its range, or differences of tokens, which have no partners.
    """

    reading: str = "mean"
    of: str = "differences"
    centre: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ROWS:
            raise InputError(f"of is {self.of!r}; allowed: {', '.join(ROWS)}")
        if not (self.centre is None or isinstance(self.centre, bool)):
            raise InputError(f"centre is {self.centre!r}; it must be true, false or none")
        if self.of == "differences":
            check_paired("pca of differences", self)


def principal_direction(states: ClassStates, settings: PCASettings) -> tuple[Tensor, float]:
    """The direction (d,) to add, and the share of the rows' second moment along it.

    Raises:
        InputError: Rows that do not differ, or classes that do not differ along the component.
    """
    if settings.of == "differences":
        rows = states.positive.double() - states.negative.double()
    else:
        rows = states.positive if settings.of == "positive" else torch.cat([states.positive, states.negative])
    centre = settings.of != "differences" if settings.centre is None else settings.centre
    found = first_component(rows, centre=centre)
    return sized(found.direction, states).float(), found.share


def fit_pca(model: Model, pairs: PairSet, settings: PCASettings, options: FitOptions) -> SteeringVector:
    """The first principal component, towards the positive class.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, rows that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("pca", model, pairs, settings, options)[Site(settings.layer)]
    direction, share = principal_direction(states, settings)
    return direction_vector("pca", model, pairs, settings, direction, states, began, {"share": share})


PCA = Method(
    name="pca",
    family="closed-form",
    paper="arXiv 2310.01405",
    summary="the first principal component of paired differences or of states, added",
    settings=PCASettings,
    fit=fit_pca,
)
