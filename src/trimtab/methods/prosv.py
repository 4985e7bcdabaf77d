"""PrOSV: a vector and its own strength, trained together, on a few prompt tokens only.

Source: Bao et al., "Towards Steering without Sacrifice", arXiv 2605.05983 (ICML 2026); code colored-dye/prosv.

    h' = h + a s v        on the first two and last two tokens of the prompt; no token of the answer is touched
    loss: `lang`, -log p a token of the positive answer; or `simpo`, that of RePS (`trimtab.methods.reps`), added only
    v ~ U(-l / sqrt d, l / sqrt d)        a = b sqrt d        rates  r_v / sqrt d of v,  r_a sqrt d of a
    elicit: h' = h + m a s v

With these rates a step changes a v by as much in a model of any width. Gradients are clipped for v alone. With a cache
nothing is edited while the answer is written: the prompt's keys and values carry it. s is the typical size of an entry
of the states that are edited (`unit="states"`) or 1 (`unit="one"`, as published).

Shapes: d hidden. Deviations from the published code: rates are given for sqrt d = 1, so one setting serves all widths
(published for Gemma-2-2B, d = 2304, with `unit="one"`: b 4, l 8, 0.04 = 1.92 / sqrt d of v and 10 = 0.21 sqrt d of a);
measured in the states' own size, smaller numbers do. The paper has a Gaussian start, its code a uniform one, which is
taken. Elicits only: on the organism, a vector subtracted from four prompt tokens takes nothing away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.added import ALPHA, VECTOR, AddedSettings, added_kind, vectors_at
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.edits import EditKind
from trimtab.fitting.preference import ScaledSimPo
from trimtab.fitting.recipe import Recipe, short_settings, transforms_vector
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, SteeringVector

OBJECTIVES = ("lang", "simpo")


@dataclass(frozen=True)
class PrOSVSettings(AddedSettings):
    """Settings of PrOSV; `lr` is r_v, the rate of v at width 1.

    Args:
        objective: `lang` or `simpo`.
        alpha_lr: r_a, the rate of a at width 1.
        alpha: b, what a begins at, at width 1.
        spread: l, how far the entries of v reach at the start, at width 1.

    Raises:
        InputError: Another objective, or a setting outside its range.
    """

    epochs: int = 12
    lr: float = 0.1
    batch_size: int = 12
    positions: str = "f2+l2"
    objective: str = "lang"
    alpha_lr: float = 0.1
    alpha: float = 1.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective is {self.objective!r}; allowed: {', '.join(OBJECTIVES)}")
        for name in ("alpha_lr", "alpha", "spread"):
            check_number(name, getattr(self, name), above=0)


def prosv_kind(width: int, settings: PrOSVSettings) -> EditKind:
    """The kind of edit in a model of that width, with the rates that suit it."""
    root = width**0.5

    def uniform(rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(settings.seed)
        return (2 * torch.rand(rows.shape, generator=generator) - 1) * settings.spread / root

    return added_kind(
        settings,
        first=uniform,
        others={ALPHA: settings.alpha * root},
        rates={VECTOR: 1 / root, ALPHA: settings.alpha_lr / settings.lr * root},
        unclipped=frozenset({ALPHA}),
    )


def _objective(settings: PrOSVSettings) -> Objective:
    if settings.objective == "lang":
        return Objective(cross_entropy, "response")
    return Objective(cross_entropy, "response", ScaledSimPo(reversed_reference=True), "base")


RECIPE = Recipe[PrOSVSettings](
    kind=lambda model, settings: prosv_kind(model.hidden_size, settings),
    objective=_objective,
    vector=lambda model, pairs, settings, fit: transforms_vector(
        "prosv", model, pairs, settings, fit, [Add(v) for v in vectors_at(fit)]
    ),
)


def fit_prosv(model: Model, pairs: PairSet, settings: PrOSVSettings, options: FitOptions) -> SteeringVector:
    """Learn a vector and its strength, for a few tokens of the prompt.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


PROSV = Method(
    name="prosv",
    family="likelihood",
    paper="arXiv 2605.05983",
    summary="a vector and its strength trained together, added to the first and last prompt tokens only",
    settings=PrOSVSettings,
    fit=fit_prosv,
    trial=short_settings,
    many=RECIPE.many,
)
