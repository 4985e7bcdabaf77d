"""DAS, distributed alignment search, as a steering method: the interchange of CDAS, trained with cross-entropy.

Source: Geiger et al., "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
Representations", arXiv 2303.02536; as a steering method it is the baseline of arXiv 2602.05234.

As CDAS (`trimtab.methods.cdas`), with one difference: there is no teacher, the loss of a scored token is -log p of the
response's own token under the intervened base, in both directions. So the label is maximised, whatever the model itself
would say on the counterfactual prompt. Factors, multiplier and deviations are those of CDAS.

Shapes: d hidden, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.fitting import (
    FitOptions,
    InterchangeSettings,
    clamp_vector,
    clamp_vectors,
    fit_interchange,
    trial_settings,
)
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class DASSettings(InterchangeSettings):
    """Settings of DAS; defaults are those published for AxBench concepts, the same as those of CDAS."""


def fit_das(model: Model, pairs: PairSet, settings: DASSettings, options: FitOptions) -> SteeringVector:
    """Learn one concept direction (or r of them) by DAS.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    fit = fit_interchange(model, pairs, settings, Objective(cross_entropy, "response"), options)
    return clamp_vector("das", model, pairs, settings, fit)


DAS = Method(
    name="das",
    family="interchange",
    paper="arXiv 2303.02536",
    summary="the interchange of CDAS, trained to make the counterfactual response likely (cross-entropy)",
    settings=DASSettings,
    fit=fit_das,
    trial=trial_settings,
    many=lambda model, concepts, settings, options: clamp_vectors(
        "das", model, concepts, settings, Objective(cross_entropy, "response"), options
    ),
)
