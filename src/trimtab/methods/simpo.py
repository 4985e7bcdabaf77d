"""SimPO: one vector, trained to make one answer likelier a token than another, without a reference.

Source: Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv 2405.14734; for a
steering vector the baseline of RePS, arXiv 2505.20809.

    loss = -log sigmoid(beta (log p(y+) / |y+| - log p(y-) / |y-|) - gamma)

h' = h + s v behind the neutral prompt; v begins at 0. s is the typical size of an entry of the states that are edited
(`unit="states"`) or 1 (`unit="one"`, as published). elicit: h' = h + m s v; suppress, not trained: h' = h - m s v.

Shapes: d hidden. Deviations from the baseline in AxBench: the rate is measured in the states' own size (published 0.04
with `unit="one"`), and v begins at 0 instead of at a random vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import AddedSettings, added_kind, added_vector
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.preference import SimPo
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class SimPOSettings(AddedSettings):
    """Settings of SimPO; epochs and batch size are those of AxBench for preferences.

    Args:
        beta: Per nat a token.
        gamma: Margin.
    """

    epochs: int = 12
    lr: float = 0.02
    batch_size: int = 6
    beta: float = 2.0
    gamma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, above=0)
        check_number("gamma", self.gamma)


RECIPE = Recipe[SimPOSettings](
    kind=lambda model, settings: added_kind(settings),
    objective=lambda settings: Objective(cross_entropy, "response", SimPo(settings.beta, settings.gamma), "base"),
    vector=lambda model, pairs, settings, fit: added_vector("simpo", model, pairs, settings, fit),
)


def fit_simpo(model: Model, pairs: PairSet, settings: SimPOSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that makes the positive answers preferred behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


SIMPO = Method(
    name="simpo",
    family="preference",
    paper="arXiv 2405.14734",
    summary="one added vector, trained to make an answer likelier a token than another",
    settings=SimPOSettings,
    fit=fit_simpo,
    trial=short_settings,
    many=RECIPE.many,
)
