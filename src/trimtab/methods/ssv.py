"""SSV, the supervised steering vector: one vector that makes the wanted answers likely.

Source: as a baseline of AxBench, Wu et al., arXiv 2501.17148; the idea is Subramani et al.'s, arXiv 2205.05124.

    h' = h + s v        loss = mean over the scored tokens of -log p(positive answer | neutral prompt, edited)
    elicit: h' = h + m s v        suppress: h' = h - m s v

s is the typical size of an entry of the states that are edited (`unit="states"`) or 1 (`unit="one"`, as published).
Every entry of v begins at 0.01, and nothing keeps its length.

Shapes: d hidden. What the published numbers mean: with 0.01 a step, falling, v can come only so far in three epochs
as half the number of steps times 0.01 an entry. In a model whose states have entries of about 1 that is a fair vector;
where they are 100 it is nothing at all. AxBench then multiplies by the largest latent, which says nothing of a vector
that has a length of its own, and finds SSV the weakest of its baselines. Measured in the states' own size, the same
numbers train every model alike. Suppression, which is not trained, subtracts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import AddedSettings, added_kind, added_vector
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector

BEGIN = 0.01
"""What every entry of v begins at."""


@dataclass(frozen=True)
class SSVSettings(AddedSettings):
    """Settings of SSV; batch size, epochs and learning rate are those of AxBench, but for the unit."""

    epochs: int = 3
    lr: float = 0.01
    batch_size: int = 6


RECIPE = Recipe[SSVSettings](
    kind=lambda model, settings: added_kind(settings, first=lambda rows: torch.full_like(rows, BEGIN)),
    objective=lambda settings: Objective(cross_entropy, "response"),
    vector=lambda model, pairs, settings, fit: added_vector("ssv", model, pairs, settings, fit),
)


def fit_ssv(model: Model, pairs: PairSet, settings: SSVSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that makes the positive answers likely behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


SSV = Method(
    name="ssv",
    family="likelihood",
    paper="arXiv 2205.05124",
    summary="one added vector, trained to make the positive answers likely",
    settings=SSVSettings,
    fit=fit_ssv,
    trial=short_settings,
    many=RECIPE.many,
)
