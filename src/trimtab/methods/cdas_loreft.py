"""CDAS-LoReFT: the low-rank edit of LoReFT, trained to match the model's own counterfactual distribution.

Source: a variant of arXiv 2602.05234 (Bao et al., ICLR 2026); the edit is that of LoReFT (Wu et al., arXiv 2404.03592).

    h' = h + R^T (W h + b - R h)        R (r, d) orthonormal rows, W (r, d), b (r,), at one block or several
    loss = mean over scored response tokens of JS(student, teacher), elicit direction only

Student and teacher as in CDAS (`trimtab.methods.cdas`); nothing is read from the source prompt, so there are no
factors, and the vector elicits only: the multiplier is its strength. Begins at the identity: W = R, b = 0.

Shapes: d hidden, r rank. Deviations from the published code: positions `all` work, W is float32 throughout, R is kept
orthonormal by a polar retraction after each step instead of a parametrisation. `weight_decay` decays R too before it
is retracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions, InterchangeSettings, fit_interchange, fitted_vector, trial_settings
from trimtab.fitting.divergence import Objective, jensen_shannon
from trimtab.fitting.edits import LOW_RANK
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Edit, Intervention, LowRank, Positions, Site, SteeringVector


@dataclass(frozen=True)
class CDASLoReFTSettings(InterchangeSettings):
    """Settings of CDAS-LoReFT; rank 4 and 0.02 are those published for refusals, the rest is as for CDAS."""

    rank: int = 4
    lr: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start != "random":
            raise InputError(
                f"start is {self.start!r}; cdas-loreft reads no source states, so it can only begin at random rows"
            )


def short_settings(settings: CDASLoReFTSettings) -> CDASLoReFTSettings:
    """Settings of a fit that is just good enough to tell layers apart; see `trimtab.fitting.trial_settings`."""
    return trial_settings(settings, start="random")


def fit_cdas_loreft(model: Model, pairs: PairSet, settings: CDASLoReFTSettings, options: FitOptions) -> SteeringVector:
    """Learn a low-rank edit by CDAS-LoReFT.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    fit = fit_interchange(model, pairs, settings, Objective(jensen_shannon, "teacher"), options, LOW_RANK)
    positions, found = Positions.parse(settings.positions), fit.parameters
    edits = tuple(
        Edit(Intervention(Site(layer), LowRank(rotation, weight, bias), positions), scales="strength")
        for layer, rotation, weight, bias in zip(
            settings.layers, *(torch.unbind(found[name]) for name in ("rotation", "weight", "bias")), strict=True
        )
    )
    directions = {"elicit": tuple(range(len(edits)))}
    return fitted_vector("cdas-loreft", model, pairs, settings, fit, edits, directions)


CDAS_LOREFT = Method(
    name="cdas-loreft",
    family="interchange",
    paper="arXiv 2602.05234",
    summary="the low-rank edit of LoReFT, trained as CDAS is; elicits only",
    settings=CDASLoReFTSettings,
    fit=fit_cdas_loreft,
    trial=short_settings,
)
