"""LoReFT: a low-rank edit of a few prompt tokens at several layers, trained on the wanted answers' likelihood.

Source: Wu et al., "ReFT: Representation Finetuning for Language Models", arXiv 2404.03592; as a steering baseline
AxBench, arXiv 2501.17148.

    h' = h + R^T (W h + b - R h)        R (r, d) orthonormal rows, W (r, d), b (r,), at one block or several
    loss = mean over the scored tokens of -log p(positive answer | neutral prompt, edited)

The first five and the last five tokens of the prompt are edited. Begins at the identity: W = R, b = 0. It elicits
only, and the multiplier is its strength, 1 as learned.

Shapes: d hidden, r rank. Deviations from the published code: W and b begin at the identity instead of at a random map,
so that the first step sees the plain model; R is kept orthonormal by a polar retraction after each step instead of a
parametrisation; no dropout. AxBench edits four layers of Gemma-2-2B (5, 10, 15, 20) with rate 9e-4, 18 pairs a step,
36 with accumulation, for 24 epochs; give `layer=(5, 10, 15, 20)` and these for the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions, TrainedFit, TrainSettings
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.edits import LOW_RANK
from trimtab.fitting.recipe import Recipe, short_settings, transforms_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import LowRank, SteeringVector


@dataclass(frozen=True)
class LoReFTSettings(TrainSettings):
    """Settings of LoReFT; rank and positions are those of AxBench.

    Raises:
        InputError: A setting outside its range, or a start at the means, of which there are none.
    """

    epochs: int = 24
    lr: float = 0.01
    rank: int = 4
    positions: str = "f5+l5"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start != "random":
            raise InputError(f"start is {self.start!r}; loreft reads no source states, so it can only be 'random'")


def _vector(model: Model, pairs: PairSet, settings: LoReFTSettings, fit: TrainedFit) -> SteeringVector:
    parts = [torch.unbind(fit.parameters[name]) for name in ("rotation", "weight", "bias")]
    return transforms_vector(
        "loreft", model, pairs, settings, fit, [LowRank(*of_site) for of_site in zip(*parts, strict=True)]
    )


RECIPE = Recipe[LoReFTSettings](
    kind=lambda model, settings: LOW_RANK,
    objective=lambda settings: Objective(cross_entropy, "response"),
    vector=_vector,
)


def fit_loreft(model: Model, pairs: PairSet, settings: LoReFTSettings, options: FitOptions) -> SteeringVector:
    """Learn a low-rank edit that makes the positive answers likely behind the negative prompts.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


LOREFT = Method(
    name="loreft",
    family="likelihood",
    paper="arXiv 2404.03592",
    summary="a low-rank edit of the first and last prompt tokens, trained to make the positive answers likely",
    settings=LoReFTSettings,
    fit=fit_loreft,
    trial=short_settings,
    many=RECIPE.many,
)
