"""Lang: a vector trained on the wanted answers' likelihood at many strengths.

Source: the language-modelling baseline of RePS, Wu et al., arXiv 2505.20809 (`ConceptVector` in AxBench).

    h' = h + (f + b) s v        loss = mean over the scored tokens of -log p(positive answer | neutral prompt, edited)
    elicit: h' = h + m (f0 + b) s v        suppress: h' = h - m (f0 + b) s v

f is drawn from a list for every answer of every step, b is a learned number that begins at 0, f0 the middle of the
list. s is the typical size of an entry of the states that are edited (`unit="states"`) or 1 (`unit="one"`).

Shapes: d hidden. Deviations from the published code: factors and rate are measured in the states' own size, where the
published list 2, 4 .. 20 and rate 0.04 are made for Gemma-2-2B; the default list is a tenth of it, so that its middle
is 1, and b has a tenth of the rate. For those numbers give `unit="one"`. Multiplier 1 is the middle of the list.
Suppression, which is not trained, subtracts.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import BIAS, AddedSettings, added_kind, added_vector, bias_rate, checked_factors
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.draws import one_of
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector

FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class LangSettings(AddedSettings):
    """Settings of Lang; epochs and batch size are those published for Gemma-2-2B.

    Args:
        factors: What f is drawn from, above 0.
    """

    epochs: int = 6
    lr: float = 0.04
    batch_size: int = 6
    factors: tuple[float, ...] = FACTORS

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", checked_factors("factors", self.factors))


RECIPE = Recipe[LangSettings](
    kind=lambda model, settings: added_kind(
        settings,
        first=lambda rows: rows.clone(),
        others={BIAS: 0.0},
        draw=one_of(settings.factors),
        rates=bias_rate(one_of(settings.factors)),
    ),
    objective=lambda settings: Objective(cross_entropy, "response"),
    vector=lambda model, pairs, settings, fit: added_vector(
        "lang", model, pairs, settings, fit, one_of(settings.factors).usual[0]
    ),
)


def fit_lang(model: Model, pairs: PairSet, settings: LangSettings, options: FitOptions) -> SteeringVector:
    """Learn a vector whose multiples make the positive answers likely behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


LANG = Method(
    name="lang",
    family="likelihood",
    paper="arXiv 2505.20809",
    summary="one added vector, trained to make the positive answers likely at many strengths",
    settings=LangSettings,
    fit=fit_lang,
    trial=short_settings,
    many=RECIPE.many,
)
