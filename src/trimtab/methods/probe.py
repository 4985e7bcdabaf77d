"""Probe: the weight of a logistic regression as a direction.

Source: as a steering baseline AxBench, arXiv 2501.17148, and CLaS-Bench, arXiv 2601.08331.

    w, b = argmin sum_i k_i log(1 + exp(-y_i (<w, h_i> + b))) + |w|^2 / (2 c)
    v = w, as long as the gap of the means along it
    elicit: h' = h + m v        suppress: h' = h - m v

k weighs both classes alike. Shapes: d hidden, n rows.

Deviations from the published code: both train by stochastic gradients for a fixed number of epochs (AxBench: AdamW, 24
epochs, lr 5e-3, weight kept at norm 1; CLaS: Adam, one epoch), so their directions depend on where training stops.
Here the minimum is found, which the regularisation makes unique. AxBench learns from single tokens; by default each row
is here the mean of its tokens, which is far cheaper, and `reading="tokens"` is AxBench's. v keeps a length that data
have instead of being brought to norm 1.

What tells the classes apart is not what makes them: where noise is correlated the probe turns away from the difference
of the means. It detects as well as any of the closed forms and steers worse than most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, closed_states, direction_vector, sized
from trimtab.fitting.logistic import fit_probe
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector


@dataclass(frozen=True)
class ProbeSettings(DirectionSettings):
    """Settings of the probe.

    Args:
        reading: What is learnt from; the mean of each row's tokens by default.
        c: Inverse strength of the regularisation.
        standardise: Bring every column of the states to mean 0 and deviation 1 before the fit, and fold that back.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "mean"
    c: float = 1.0
    standardise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("c", self.c, above=0)
        if not isinstance(self.standardise, bool):
            raise InputError(f"standardise is {self.standardise!r}; it must be true or false")


def probe_direction(states: ClassStates, settings: ProbeSettings) -> tuple[Tensor, float]:
    """The direction (d,) to add, and the probe's accuracy on the rows it was fitted to.

    Raises:
        InputError: States that a probe cannot be fitted to, or classes that do not differ along its weight.
    """
    probe = fit_probe(states.positive, states.negative, c=settings.c, standardise=settings.standardise)
    return sized(probe.weight, states).float(), probe.accuracy


def fit_probe_method(model: Model, pairs: PairSet, settings: ProbeSettings, options: FitOptions) -> SteeringVector:
    """The weight of a logistic regression.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, states that are all
            the same, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("probe", model, pairs, settings, options)[Site(settings.layer)]
    direction, accuracy = probe_direction(states, settings)
    return direction_vector("probe", model, pairs, settings, direction, states, began, {"accuracy": accuracy})


PROBE = Method(
    name="probe",
    family="closed-form",
    paper="arXiv 2501.17148",
    summary="the weight of a logistic regression, added",
    settings=ProbeSettings,
    fit=fit_probe_method,
)
