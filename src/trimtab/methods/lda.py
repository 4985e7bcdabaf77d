"""LDA: the difference of the means, seen through the spread within the classes.

Source: Fisher's discriminant; as a steering method CLaS-Bench, arXiv 2601.08331; code d-gurgurov/CLaS-Bench.

    w = (S_w + r I)^-1 (mu+ - mu-),  S_w the pooled covariance within the classes,  r = shrinkage tr(S_w) / d
    v = w, as long as the gap of the means along it
    elicit: h' = h + m v        suppress: h' = h - m v

Shapes: d hidden, n rows.

With much shrinkage, or where the classes spread alike in all directions, this is the difference of the means.

Deviations from the published code: r is in units of the mean variance, so that one setting means the same at all
layers; v keeps a length that data have instead of being brought to norm 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import DirectionSettings, check_differ, closed_states, direction_vector, sized
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector


@dataclass(frozen=True)
class LDASettings(DirectionSettings):
    """Settings of LDA.

    Args:
        shrinkage: What is added to the covariance's diagonal, in units of its mean; 0 needs more rows than the states
            are wide.

    Raises:
        InputError: A setting outside its range.
    """

    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("shrinkage", self.shrinkage, least=0)


def discriminant(states: ClassStates, settings: LDASettings) -> Tensor:
    """The direction (d,) to add.

    Raises:
        InputError: Classes that do not differ, that do not spread at all, or whose covariance cannot be inverted as it
            is.
    """
    difference, sides = check_differ(states).double(), (states.positive.double(), states.negative.double())
    centred = torch.cat([rows - rows.mean(dim=0) for rows in sides])
    n, width = centred.shape
    within = centred.T @ centred / max(n - 2, 1)
    variance = float(within.diagonal().mean())
    if not variance > 0:
        raise InputError(
            f"lda: neither class varies at {states.site} ({len(sides[0])} and {len(sides[1])} rows); give more pairs"
        )
    if settings.shrinkage == 0:
        rank = int(torch.linalg.matrix_rank(within, hermitian=True))
        if rank < width:
            raise InputError(
                f"lda: the covariance within the classes has rank {rank} and the states are {width} wide ({n} rows), "
                "so it cannot be inverted; set shrinkage above 0, or give more pairs"
            )
    within.diagonal().add_(settings.shrinkage * variance)
    return sized(torch.linalg.solve(within, difference), states).float()


def fit_lda(model: Model, pairs: PairSet, settings: LDASettings, options: FitOptions) -> SteeringVector:
    """Fisher's discriminant.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, a singular covariance without shrinkage, or a start vector, order or trace, which a closed form has
            no use for.
    """
    began = time.monotonic()
    states = closed_states("lda", model, pairs, settings, options)[Site(settings.layer)]
    return direction_vector("lda", model, pairs, settings, discriminant(states, settings), states, began)


LDA = Method(
    name="lda",
    family="closed-form",
    paper="arXiv 2601.08331",
    summary="Fisher's discriminant: the difference of the means through the inverse spread within the classes, added",
    settings=LDASettings,
    fit=fit_lda,
)
