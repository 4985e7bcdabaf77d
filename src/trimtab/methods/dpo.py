"""DPO: one vector, trained by direct preference optimisation.

Source: Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290; for a steering vector the baseline of RePS,
arXiv 2505.20809.

    D = [log p(y+) - log p(y-)] - [log p_0(y+) - log p_0(y-)]
    loss = -(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D)        p_0: the plain model behind the same prompt

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
from trimtab.fitting.preference import Dpo
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class DPOSettings(AddedSettings):
    """Settings of DPO; epochs and batch size are those of AxBench for preferences.

    Args:
        beta: Nats of preference that count as one are 1 / beta.
        smoothing: e, label smoothing from 0 to below 0.5.
    """

    epochs: int = 12
    lr: float = 0.02
    batch_size: int = 6
    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, above=0)
        check_number("smoothing", self.smoothing)
        _ = Dpo(self.beta, self.smoothing)  # which knows its range


RECIPE = Recipe[DPOSettings](
    kind=lambda model, settings: added_kind(settings),
    objective=lambda settings: Objective(cross_entropy, "response", Dpo(settings.beta, settings.smoothing), "base"),
    vector=lambda model, pairs, settings, fit: added_vector("dpo", model, pairs, settings, fit),
)


def fit_dpo(model: Model, pairs: PairSet, settings: DPOSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that makes the positive answers preferred behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


DPO = Method(
    name="dpo",
    family="preference",
    paper="arXiv 2305.18290",
    summary="one added vector, trained by direct preference optimisation",
    settings=DPOSettings,
    fit=fit_dpo,
    trial=short_settings,
    many=RECIPE.many,
)
