"""Difference in means: the plainest closed form, no training.

Source: Marks & Tegmark, "The Geometry of Truth", arXiv 2310.06824; as a steering baseline AxBench, arXiv 2501.17148.

    v = mean of h over tokens of positive prompts with their responses, less that of negative ones
    elicit: h' = h + m v        suppress: h' = h - m v

Tokens of the template prefix take no part. Shapes: d hidden, s tokens of a row.

Deviations from AxBench: v keeps its length instead of being brought to norm 1, so that the multiplier 1 means the gap
that the data have, as it does everywhere in trimtab.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, check_differ, closed_states, direction_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector


@dataclass(frozen=True)
class DiffMeanSettings(DirectionSettings):
    """Settings of the difference in means."""


def fit_diffmean(model: Model, pairs: PairSet, settings: DiffMeanSettings, options: FitOptions) -> SteeringVector:
    """The difference of the classes' mean states.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("diffmean", model, pairs, settings, options)[Site(settings.layer)]
    return direction_vector("diffmean", model, pairs, settings, check_differ(states), states, began)


DIFFMEAN = Method(
    name="diffmean",
    family="closed-form",
    paper="arXiv 2310.06824",
    summary="the difference of the classes' mean states, added",
    settings=DiffMeanSettings,
    fit=fit_diffmean,
)
