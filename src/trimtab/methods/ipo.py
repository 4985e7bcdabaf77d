"""IPO: one vector, trained until one answer is preferred by a given margin, and no further.

Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv 2310.12036;
for a steering vector the baseline of RePS, arXiv 2505.20809.

    D = [log p(y+) - log p(y-)] - [log p_0(y+) - log p_0(y-)]        p_0: the plain model behind the same prompt
    loss = (D - 1 / (2 beta))^2

h' = h + s v behind the neutral prompt; v begins at 0. s is the typical size of an entry of the states that are edited
(`unit="states"`) or 1 (`unit="one"`, as published). elicit: h' = h + m s v; suppress, not trained: h' = h - m s v.

Shapes: d hidden. Deviations from the baseline in AxBench: the rate is measured in the states' own size (published 0.04
with `unit="one"`), and v begins at 0 instead of at a random vector.
beta is 0.02: the difference is one of whole answers, and 25 nats is about what a concept of a sentence needs, where the
usual 0.1 asks for 5 and stops there.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.added import AddedSettings, added_kind, added_vector
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.preference import Ipo
from trimtab.fitting.recipe import Recipe, short_settings
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class IPOSettings(AddedSettings):
    """Settings of IPO; epochs and batch size are those of AxBench for preferences.

    Args:
        beta: The wanted difference is 1 / (2 beta) nats.
    """

    epochs: int = 12
    lr: float = 0.02
    batch_size: int = 6
    beta: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, above=0)


RECIPE = Recipe[IPOSettings](
    kind=lambda model, settings: added_kind(settings),
    objective=lambda settings: Objective(cross_entropy, "response", Ipo(settings.beta), "base"),
    vector=lambda model, pairs, settings, fit: added_vector("ipo", model, pairs, settings, fit),
)


def fit_ipo(model: Model, pairs: PairSet, settings: IPOSettings, options: FitOptions) -> SteeringVector:
    """Learn the vector that makes the positive answers preferred behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


IPO = Method(
    name="ipo",
    family="preference",
    paper="arXiv 2310.12036",
    summary="one added vector, trained until an answer is preferred by a given margin",
    settings=IPOSettings,
    fit=fit_ipo,
    trial=short_settings,
    many=RECIPE.many,
)
