"""LAT, linear artificial tomography: PCA of differences of states that are paired at random.

Source: Zou et al., "Representation Engineering", arXiv 2310.01405; as a steering baseline AxBench, arXiv 2501.17148.

    d_k = (h_a - h_b) / |h_a - h_b|, a and b drawn at random, each state at most once
    v = first principal component of the d_k about zero, towards the positive class, as long as the gap of the means
    elicit: h' = h + m v        suppress: h' = h - m v

Shapes: d hidden, n rows.

About zero the signs of the differences do not matter, which the paper draws at random before it centres. Who is paired:
`across` takes a from the positive class and b from the negative one; `pooled` takes both from all states, as where
nothing is known of the classes: half of the differences are then within a class; `positive` takes both from the
positive class.

Deviations from the published code: RepE pairs the two versions of one statement, here partners are drawn, so that
nothing but the class is common to the differences. AxBench pairs positive tokens (`pairing="positive"`,
`reading="tokens"`), from which the concept's direction cannot be told, and leaves the sign to chance.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, closed_states, direction_vector, sized
from trimtab.fitting.principal import first_component
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector

PAIRINGS = ("across", "pooled", "positive")


@dataclass(frozen=True)
class LATSettings(DirectionSettings):
    """Settings of LAT.

    Args:
        reading: What is learnt from; the prompt's last token by default, as in RepE.
        pairing: Who is paired at random: `across` the classes, `pooled` of all states, `positive` ones alone.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "last"
    pairing: str = "across"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairing not in PAIRINGS:
            raise InputError(f"pairing is {self.pairing!r}; allowed: {', '.join(PAIRINGS)}")


def tomographic_direction(states: ClassStates, settings: LATSettings) -> tuple[Tensor, float]:
    """The direction (d,) to add, and the share of the differences' second moment along it.

    Raises:
        InputError: Too few states, such that are all the same, or classes that do not differ along the component.
    """
    first, second = _partners(states, settings)
    differences = first.double() - second.double()
    norms = differences.norm(dim=1, keepdim=True)
    differences = (differences / norms)[norms[:, 0] > 0]
    if not len(differences):
        raise InputError(
            f"lat found no two different states to pair at {states.site} ({len(states.positive)} positive and "
            f"{len(states.negative)} negative rows, pairing {settings.pairing!r}); give more pairs, or such that differ"
        )
    found = first_component(differences, centre=False)
    return sized(found.direction, states).float(), found.share


def _partners(states: ClassStates, settings: LATSettings) -> tuple[Tensor, Tensor]:
    """Two sets of rows (n, d), drawn without replacement: the k-th of one is the partner of the k-th of the other."""
    generator = torch.Generator().manual_seed(settings.seed)

    def shuffled(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)]

    if settings.pairing == "across":
        n = min(len(states.positive), len(states.negative))
        return shuffled(states.positive)[:n], shuffled(states.negative)[:n]
    pool = states.positive if settings.pairing == "positive" else torch.cat([states.positive, states.negative])
    drawn, half = shuffled(pool), len(pool) // 2
    return drawn[:half], drawn[half : 2 * half]


def fit_lat(model: Model, pairs: PairSet, settings: LATSettings, options: FitOptions) -> SteeringVector:
    """The first principal component of randomly paired differences, towards the positive class.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, states that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("lat", model, pairs, settings, options)[Site(settings.layer)]
    direction, share = tomographic_direction(states, settings)
    return direction_vector("lat", model, pairs, settings, direction, states, began, {"share": share})


LAT = Method(
    name="lat",
    family="closed-form",
    paper="arXiv 2310.01405",
    summary="the first principal component of unit differences of randomly paired states, added",
    settings=LATSettings,
    fit=fit_lat,
)
