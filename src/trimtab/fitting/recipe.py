"""What makes one method that trains an edit differ from another, and the vector that such a fit becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError
from trimtab.fitting.divergence import Objective
from trimtab.fitting.edits import EditKind
from trimtab.fitting.engine import FitOptions, TrainedFit, fit_interchange, fit_interchanges
from trimtab.fitting.settings import TrainSettings, trial_settings
from trimtab.fitting.vectors import fitted_vector, made_vectors
from trimtab.models.model import Model
from trimtab.steering import Edit, Intervention, Positions, Site, SteeringVector, Transform

S = TypeVar("S", bound=TrainSettings)


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """What makes one method that trains an edit differ from another.

    Attributes:
        kind: What is trained.
        objective: What it is to come near.
        vector: What a fit becomes.
    """

    kind: Callable[[Model, S], EditKind]
    objective: Callable[[S], Objective]
    vector: Callable[[Model, PairSet, S, TrainedFit], SteeringVector]

    def fit(self, model: Model, pairs: PairSet, settings: S, options: FitOptions) -> SteeringVector:
        """The vector of one concept.

        Raises:
            InputError: See `trimtab.fitting.fit_interchange`.
            FitDivergedError: The loss left the finite numbers; carries the last good vector.
        """
        fit = fit_interchange(model, pairs, settings, self.objective(settings), options, self.kind(model, settings))
        return self.vector(model, pairs, settings, fit)

    def many(
        self, model: Model, concepts: Sequence[PairSet], settings: S, options: FitOptions
    ) -> list[SteeringVector | FitDivergedError]:
        """The vectors of several concepts, trained in lockstep; in place of one that diverged, the error.

        Raises:
            InputError: See `trimtab.fitting.fit_interchanges`.
        """
        kind = self.kind(model, settings)
        fits = fit_interchanges(model, concepts, settings, self.objective(settings), options, kind)
        return made_vectors(concepts, fits, lambda pairs, fit: self.vector(model, pairs, settings, fit))


def transforms_vector(
    method: str,
    model: Model,
    pairs: PairSet,
    settings: TrainSettings,
    fit: TrainedFit,
    elicit: Sequence[Transform],
    suppress: Sequence[Transform] = (),
) -> SteeringVector:
    """The vector of a fit: a transform a layer for each direction, which the multiplier makes weaker or stronger.

    Raises:
        FitDivergedError: The fit left the finite numbers; the last good vector comes with the error.
    """
    positions = Positions.parse(settings.positions)
    edits = tuple(
        Edit(Intervention(Site(layer), transform, positions), scales="strength")
        for transforms in (elicit, suppress)
        if transforms
        for layer, transform in zip(settings.layers, transforms, strict=True)
    )
    n = len(settings.layers)
    directions = {"elicit": tuple(range(n)), "suppress": tuple(range(n, 2 * n))}
    chosen = directions if suppress else {"elicit": directions["elicit"]}
    return fitted_vector(method, model, pairs, settings, fit, edits, chosen)


def short_settings(settings: TrainSettings) -> TrainSettings:
    """Settings of a fit that is just good enough to tell layers apart: few and small steps, and no slow beginning."""
    return dataclasses.replace(trial_settings(settings, start="random"), warmup_steps=0)
