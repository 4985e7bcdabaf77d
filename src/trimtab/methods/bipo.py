"""BiPO: one vector that makes an answer preferred, and, subtracted, the other one.

Source: Cao et al., "Personalized Steering of Large Language Models: Versatile Steering Vectors Through Bi-directional
Preference Optimization", arXiv 2406.00045; code CaoYuanpu/BiPO, commit cef1d00.

    D(f) = [log p_f(y+) - log p_f(y-)] - [log p_0(y+) - log p_0(y-)]        h' = h + f s v, behind the neutral prompt
    loss = mean over the batch of -log sigmoid(beta f D(f))        f = 1 or -1, one coin a batch
    elicit: h' = h + m s v        suppress: h' = h - m s v

p_0 is the plain model behind the same prompt. v begins at 0, where D is 0 and the loss ln 2; its gradient is not 0. s
is the typical size of an entry of the states that are edited (`unit="states"`) or 1 (`unit="one"`, as published).

Shapes: d hidden. Deviations from the published code: the rate is measured in the states' own size and is twenty times
as high, since a few dozen pairs give a few hundred steps and not thousands; for the published numbers give `unit="one"`
and `lr=5e-4`. The first of n steps of warm-up has 1/(n + 1) of the rate instead of none, and there are always fewer
such steps than steps. Published: up to 100 epochs, vectors taken from epoch 20 or 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import AddedSettings, added_kind, added_vector
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.draws import FactorDraw, sign_a_batch
from trimtab.fitting.preference import Dpo
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class BiPOSettings(AddedSettings):
    """Settings of BiPO; those published but for epochs, rate and its unit.

    Args:
        beta: Nats of preference that count as one are 1 / beta.
    """

    epochs: int = 20
    lr: float = 0.01
    batch_size: int = 4
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_steps: int = 100
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, above=0)


RECIPE = Recipe[BiPOSettings](
    kind=lambda model, settings: added_kind(settings, draw=FactorDraw(sign_a_batch, (1.0,))),
    objective=lambda settings: Objective(cross_entropy, "response", Dpo(settings.beta), "base"),
    vector=lambda model, pairs, settings, fit: added_vector("bipo", model, pairs, settings, fit),
)


def fit_bipo(model: Model, pairs: PairSet, settings: BiPOSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that, added, makes the positive answers preferred, and subtracted the negative ones.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


BIPO = Method(
    name="bipo",
    family="preference",
    paper="arXiv 2406.00045",
    summary="one added vector, trained to turn a preference one way, and the other way when subtracted",
    settings=BiPOSettings,
    fit=fit_bipo,
    trial=short_settings,
    many=RECIPE.many,
)
