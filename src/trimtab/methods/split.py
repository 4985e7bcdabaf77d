"""SPLIT: one vector, trained to keep both answers likely and to prefer one by a margin.

Source: "Why Steering Works", arXiv 2602.02343; code zjunlp/EasyEdit, commit 14cea82 (where it is spelled "spilt").

    h' = h + f s v behind the neutral prompt        Lp, Ln: -log p a token of the two answers
    loss = Lp + l Ln + g relu(t - (Ln - Lp))        where f < 0, p and n change places
    elicit: h' = h + m f0 s v        suppress: h' = h - m f0 s v

The likelihoods of both are the utility, the hinge is the preference. A coin says for every pair of answers of every
step whether it is added or subtracted; how much is drawn from a list for each answer by itself; f0 is the middle of it.
s is the typical size of an entry of the states that are edited (`unit="states"`) or 1 (`unit="one"`, as published).
`trimtab.fitting.odds` has the two odds and the curve of the paper.

Shapes: d hidden. Deviations from the published code: it goes through added and subtracted samples in turn, where here
a coin chooses; factors and rate are measured in the states' own size (published 2, 4 .. 20 and 0.08); no dropout, and
not the reference term, which is off by default there.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import AddedSettings, added_kind, added_vector, checked_factors
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.draws import signed_one_of
from trimtab.fitting.preference import Split
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector

FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class SplitSettings(AddedSettings):
    """Settings of SPLIT; epochs and weights are those published for AxBench on Gemma-2-9B.

    Args:
        factors: What the size of f is drawn from, above 0.
        utility: l, of the answer that is not preferred.
        hinge: g, of the preference.
        margin: t, in nats a token.
    """

    epochs: int = 18
    lr: float = 0.04
    batch_size: int = 6
    factors: tuple[float, ...] = FACTORS
    utility: float = 0.6
    hinge: float = 4.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", checked_factors("factors", self.factors))
        for name in ("utility", "hinge", "margin"):
            check_number(name, getattr(self, name), least=0)


RECIPE = Recipe[SplitSettings](
    kind=lambda model, settings: added_kind(
        settings, first=lambda rows: rows.clone(), draw=signed_one_of(settings.factors)
    ),
    objective=lambda settings: Objective(
        cross_entropy, "response", Split(1.0, settings.utility, settings.hinge, settings.margin), "base"
    ),
    vector=lambda model, pairs, settings, fit: added_vector(
        "split", model, pairs, settings, fit, signed_one_of(settings.factors).usual[0]
    ),
)


def fit_split(model: Model, pairs: PairSet, settings: SplitSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that, added, makes the positive answers preferred, and subtracted the negative ones.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


SPLIT = Method(
    name="split",
    family="preference",
    paper="arXiv 2602.02343",
    summary="one added vector, trained to keep both answers likely and to prefer one by a margin",
    settings=SplitSettings,
    fit=fit_split,
    trial=short_settings,
    many=RECIPE.many,
)
