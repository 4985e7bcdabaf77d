"""RePS: one vector that is trained to write a concept when added, and to take it away when it is nulled out.

Source: Wu et al., "Improved Representation Steering for Language Models", arXiv 2505.20809; code read in
clarenceluo78/axbench, commit 027dcfb.

    added      h' = h + (f + b) s v        f > 0 drawn from a list, for the winner y+ and the loser y- by itself
    taken away h' = h - relu(<v, h> + b s) / ||v||^2 v, or h + (f + b) s v with f < 0; the winner is y-
    loss = -log sigmoid(w / |winner| log p(winner) - 1 / |loser| log p(loser))
    w = max(log p_0(loser) - log p_0(winner), 1), a number without a gradient

All behind the neutral prompt; every pair gives one of each kind a step. p_0 is the plain model. b is a learned number
that begins at 0; s is the typical size of an entry of the states that are edited (`unit="states"`) or 1 (`unit="one"`).

    elicit: h' = h + m (f0 + b) s v, f0 the middle of the list        suppress: as it was trained, m its strength

Shapes: d hidden. Deviations from the published code: |.| are the tokens of the answer, where the code takes the whole
sequence with its prompt (`lengths="sequence"` does that). Factors and rate are measured in the states' own size, where
the published list 2, 4 .. 20 and rate 0.04 are made for Gemma-2-2B; the default list is a tenth of it, so that its
middle is 1, and b has a tenth of the rate. No dropout, no accumulation of batches.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions, TrainedFit
from trimtab.fitting.added import (
    BIAS,
    VECTOR,
    AddedSettings,
    added_kind,
    added_or_nulled,
    bias_rate,
    checked_factors,
    vectors_at,
)
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.draws import FactorDraw, one_of
from trimtab.fitting.edits import SIZE, EditKind
from trimtab.fitting.items import ELICIT, KEEP
from trimtab.fitting.preference import ScaledSimPo
from trimtab.fitting.recipe import Recipe, short_settings, transforms_vector
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, NullOut, SteeringVector

FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
TAKEN_AWAY = {"null": 0.0, "subtract": -1.0}
"""How the concept is taken away, and what a drawn factor is multiplied by for it."""
LENGTHS = ("response", "sequence")


@dataclass(frozen=True)
class RePSSettings(AddedSettings):
    """Settings of RePS; epochs and batch size are those published for Gemma-2-2B.

    Args:
        factors: What f is drawn from, above 0.
        suppress: `null` takes away the positive part of the coordinate along v, `subtract` adds with negative factors.
        lengths: What counts as the length of an answer: `response`, or `sequence` with its prompt, as in the code.
    """

    epochs: int = 12
    lr: float = 0.04
    batch_size: int = 6
    factors: tuple[float, ...] = FACTORS
    suppress: str = "null"
    lengths: str = "response"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", checked_factors("factors", self.factors))
        if self.suppress not in TAKEN_AWAY:
            raise InputError(f"suppress is {self.suppress!r}; allowed: {', '.join(TAKEN_AWAY)}")
        if self.lengths not in LENGTHS:
            raise InputError(f"lengths is {self.lengths!r}; allowed: {', '.join(LENGTHS)}")

    @property
    def draw(self) -> FactorDraw:
        """How factors are drawn for the two kinds of example."""
        return one_of(self.factors, signs=(1.0, TAKEN_AWAY[self.suppress]))

    @property
    def objective(self) -> Objective:
        """What the settings ask for."""
        preference = ScaledSimPo(reversed_reference=True)
        lengths = "response" if self.lengths == "response" else "sequence"
        return Objective(cross_entropy, "response", preference, "base", lengths)


def _kind(model: Model, settings: RePSSettings) -> EditKind:
    return added_kind(
        settings,
        first=lambda rows: rows.clone(),
        others={BIAS: 0.0},
        draw=settings.draw,
        rates=bias_rate(settings.draw),
        ways=(ELICIT, KEEP),
        apply=added_or_nulled,
    )


def _vector(model: Model, pairs: PairSet, settings: RePSSettings, fit: TrainedFit) -> SteeringVector:
    plus, minus = settings.draw.usual
    elicit = [Add(v) for v in vectors_at(fit, plus)]
    if settings.suppress == "subtract":
        return transforms_vector("reps", model, pairs, settings, fit, elicit, [Add(v) for v in vectors_at(fit, minus)])
    found = fit.parameters
    shifts = found[BIAS] * found[SIZE] if SIZE in found else found[BIAS]
    nulls = [NullOut(v[0], shift[0, 0]) for v, shift in zip(found[VECTOR], shifts, strict=True)]
    return transforms_vector("reps", model, pairs, settings, fit, elicit, nulls)


RECIPE = Recipe[RePSSettings](kind=_kind, objective=lambda settings: settings.objective, vector=_vector)


def fit_reps(model: Model, pairs: PairSet, settings: RePSSettings, options: FitOptions) -> SteeringVector:
    """Learn a vector that writes the concept when added and takes it away when nulled out.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    return RECIPE.fit(model, pairs, settings, options)


REPS = Method(
    name="reps",
    family="preference",
    paper="arXiv 2505.20809",
    summary="one vector, trained to be preferred when added at many strengths, and to be missed when nulled out",
    settings=RePSSettings,
    fit=fit_reps,
    trial=short_settings,
    many=RECIPE.many,
)
