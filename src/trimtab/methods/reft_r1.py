"""ReFT-r1: one unit direction that finds a concept and writes it.

Source: the supervised dictionary learning of AxBench, Wu et al., arXiv 2501.17148 (`LsReFT` in its code).

    a_t = relu(<h_t, v>)        h' = h + mean of the k largest a_t of the row . v        |v| = 1
    loss = mean over the scored tokens of -log p(answer | neutral prompt, edited), of positive and of negative answers
           + (share of the run that is over) c mean of the other a_t

The part of the gradient along v is taken out before it is clipped, and v is brought back to length 1 after each step.
What is returned adds v as long as the mean of the k largest latents on the positive answers: multiplier 1 does what the
training did on average. To suppress, the positive coordinate along v is removed: h' = h - m relu(<h, v>) v. Subtracting
a constant would push tokens that never held the concept beyond its absence; this leaves them alone.

Shapes: d hidden, k tokens. Deviations from the published code: v is normalised after the optimiser's step, not before,
so that what is kept has length 1. AxBench adds the largest latent of held-out texts instead of the mean. One layer
only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions, TrainedFit, TrainSettings
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.recipe import Recipe, short_settings, transforms_vector
from trimtab.fitting.settings import check_number
from trimtab.fitting.topk import VECTOR, top_kind
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, NullOut, SteeringVector


@dataclass(frozen=True)
class ReFTR1Settings(TrainSettings):
    """Settings of ReFT-r1; defaults are those published for Gemma-2-2B.

    Args:
        k: Latents that count.
        penalty: c, of the mean of all others.

    Raises:
        InputError: A setting outside its range, several layers, or more than one direction.
    """

    epochs: int = 3
    lr: float = 0.01
    batch_size: int = 6
    k: int = 8
    penalty: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("k", self.k, least=1, whole=True)
        check_number("penalty", self.penalty, least=0)
        if self.rank != 1 or len(self.layers) > 1:
            raise InputError(
                f"rank is {self.rank} and layers are {list(self.layers)}; reft-r1 trains one direction at one layer"
            )
        if self.start != "random":
            raise InputError(f"start is {self.start!r}; reft-r1 reads no source states, so it can only be 'random'")


def _vector(model: Model, pairs: PairSet, settings: ReFTR1Settings, fit: TrainedFit) -> SteeringVector:
    unit, size = fit.parameters[VECTOR][0, 0], fit.readings[0]
    if fit.diverged_at is None and not size > 0:
        raise InputError(
            f"no token of {len(pairs)} pairs has a positive coordinate along the direction that was found, so it has "
            "no size; give another seed, more epochs or a higher lr"
        )
    fit = dataclasses.replace(fit, edit_ratio={})  # those of the edit that was trained, not of this one
    return transforms_vector("reft-r1", model, pairs, settings, fit, [Add(size * unit)], [NullOut(unit)])


RECIPE = Recipe[ReFTR1Settings](
    kind=lambda model, settings: top_kind(settings.k, settings.penalty),
    objective=lambda settings: Objective(cross_entropy, "response"),
    vector=_vector,
)


def fit_reft_r1(model: Model, pairs: PairSet, settings: ReFTR1Settings, options: FitOptions) -> SteeringVector:
    """Learn a unit direction that finds the positive answers and makes them likely.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`; or no token has a positive coordinate along what was found.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


REFT_R1 = Method(
    name="reft-r1",
    family="likelihood",
    paper="arXiv 2501.17148",
    summary="a unit direction trained to find a concept and, added as much as it finds, to write it",
    settings=ReFTR1Settings,
    fit=fit_reft_r1,
    trial=short_settings,
    many=RECIPE.many,
)
