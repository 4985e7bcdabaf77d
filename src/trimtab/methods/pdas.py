"""PDAS: the interchange of CDAS, trained with a preference between two answers.

Source: a variant of arXiv 2602.05234 (Bao et al., ICLR 2026). Of each direction of a pair,

    chosen    the source's response behind the base prompt      both under the interchange from the source prompt
    rejected  the base's own response behind the base prompt

    dpo:           -log sigmoid(beta [(log p_chosen - log p_rejected) - (ref_chosen - ref_rejected)])
    scaled_simpo:  -log sigmoid(max(scale (ref_chosen - ref_rejected), 1) / |chosen| log p_chosen
                                - 1 / |rejected| log p_rejected - gamma)

ref of dpo is the model behind the SOURCE prompt without intervention, of scaled_simpo the model behind the base prompt.
RePS (arXiv 2505.20809), where scaled_simpo comes from, has the difference the other way round; here, where the base
prompt makes its own response the likelier one, the published weight is practically always 1. It is the default, for
its numbers; `reversed_reference` gives that of RePS. Factors, multiplier and deviations are those of CDAS
(`trimtab.methods.cdas`).

Shapes: d hidden, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import (
    FitOptions,
    InterchangeSettings,
    clamp_vector,
    clamp_vectors,
    fit_interchange,
    trial_settings,
)
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.preference import Dpo, ScaledSimPo
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector

LOSSES = ("dpo", "scaled_simpo")


@dataclass(frozen=True)
class PDASSettings(InterchangeSettings):
    """Settings of PDAS; those that it shares with CDAS have the same defaults (`weighting` has no meaning here).

    Args:
        loss: `scaled_simpo` or `dpo`.
        beta: Of dpo: nats of preference that count as one.
        smoothing: Label smoothing of dpo, from 0 to below 0.5.
        gamma: Margin of scaled_simpo, nats a token.
        scale: Of the reference's difference in scaled_simpo, per nat.
        reversed_reference: Weigh by what the reference finds unlikely, as RePS does.

    Raises:
        InputError: Another loss, or a value outside its range.
    """

    loss: str = "scaled_simpo"
    beta: float = 0.1
    smoothing: float = 0.0
    gamma: float = 0.0
    scale: float = 1.0
    reversed_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, above=0)
        check_number("gamma", self.gamma)
        check_number("scale", self.scale, least=0)
        if self.loss not in LOSSES:
            raise InputError(f"loss is {self.loss!r}; allowed: {', '.join(LOSSES)}")
        _ = self.objective

    @property
    def objective(self) -> Objective:
        """What the settings ask for."""
        if self.loss == "dpo":
            return Objective(cross_entropy, "response", Dpo(self.beta, self.smoothing), "source")
        preference = ScaledSimPo(self.gamma, self.scale, self.reversed_reference)
        return Objective(cross_entropy, "response", preference, "base")


def fit_pdas(model: Model, pairs: PairSet, settings: PDASSettings, options: FitOptions) -> SteeringVector:
    """Learn one concept direction (or r of them) by PDAS.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    fit = fit_interchange(model, pairs, settings, settings.objective, options)
    return clamp_vector("pdas", model, pairs, settings, fit)


def fit_many_pdas(
    model: Model, concepts: Sequence[PairSet], settings: PDASSettings, options: FitOptions
) -> list[SteeringVector | FitDivergedError]:
    """As `fit_pdas`, several concepts in lockstep."""
    return clamp_vectors("pdas", model, concepts, settings, settings.objective, options)


PDAS = Method(
    name="pdas",
    family="interchange",
    paper="arXiv 2602.05234",
    summary="the interchange of CDAS, trained to prefer the counterfactual response to the model's own",
    settings=PDASSettings,
    fit=fit_pdas,
    trial=trial_settings,
    many=fit_many_pdas,
)
