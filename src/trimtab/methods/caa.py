"""Contrastive activation addition: a mean difference at the end of the answers.

Source: Rimsky et al., arXiv 2312.06681; code nrimsky/CAA.

    v = mean of h at the last token of positive prompts with their responses, less that of negative ones
    elicit: h' = h + m v        suppress: h' = h - m v        on all tokens behind the prompt

Shapes: d hidden.

The paper's data are questions with two answers to choose from: both sides have the same prompt, the response is a
letter, and its token is where the states are read. Any contrast pairs will do here; where the prompts differ, v holds
that difference as well. The paper adds v to every token behind the prompt and, as its code does too, to no token of
it: the first token of an answer still comes from a state that is not edited (`positions="all"` edits that as well).

Deviations from the published code: none in the vector. The code can bring the vectors of all layers and behaviours to
one norm; here v keeps its length, as everywhere in trimtab.
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
class CAASettings(DirectionSettings):
    """Settings of contrastive activation addition.

    Args:
        positions: Which tokens are edited; behind the prompt by default, as published.
        reading: What is learnt from; the response's last token by default, as published.
    """

    positions: str = "response"
    reading: str = "answer"


def fit_caa(model: Model, pairs: PairSet, settings: CAASettings, options: FitOptions) -> SteeringVector:
    """The difference of the classes' mean states at the end of the answers.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("caa", model, pairs, settings, options)[Site(settings.layer)]
    return direction_vector("caa", model, pairs, settings, check_differ(states), states, began)


CAA = Method(
    name="caa",
    family="closed-form",
    paper="arXiv 2312.06681",
    summary="the difference of the mean states at the answers' last tokens, added behind the prompt",
    settings=CAASettings,
    fit=fit_caa,
)
