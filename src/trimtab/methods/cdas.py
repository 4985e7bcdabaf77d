"""CDAS, Concept DAS: distribution matching with distributed interchange interventions.

Source: Bao et al., "Faithful Bi-Directional Model Steering via Distribution Matching and Distributed Interchange
Interventions", arXiv 2602.05234 (ICLR 2026).

For a contrast quadruple (x, y, x_c, y_c) of neutral and concept prompt and response, one direction w (d,) at the output
of block L, and s = <w, h_p(x_src)>, the coordinate of the source prompt's last header token p:

    elicit:    base x,   source x_c, response y_c        student: base with h' = h + (s - <w, h>) w at every position
    suppress:  base x_c, source x,   response y          teacher: source prompt, no intervention
    loss = mean over scored response tokens of JS(student, teacher), summed over both directions

No label is maximised: responses only provide context. AdamW with a linearly falling learning rate; w is brought back to
unit norm after each step. Factors are the means of s over each class's prompts; the vector clamps to them.

Shapes: d hidden, r rank. Deviations from the published code, none of which changes its numbers on clean data: no BOS
inside a response, no masking by pad id, unrounded factors, float32 divergence, sums without a second division for
display, rows of a rank-r vector kept orthonormal (polar retraction) with one factor a coordinate. One that does: with
positions f<N>+l<M> every edited token gets the value of the one source token, as with all others, where the published
code pairs the base's first and last tokens with the source's own. Published settings a model are
in `docs/methods/cdas.md`.
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
from trimtab.fitting.divergence import Objective, jensen_shannon
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class CDASSettings(InterchangeSettings):
    """Settings of CDAS; defaults are those published for AxBench concepts (18 epochs, 8 pairs a step, lr 0.04)."""


def fit_cdas(model: Model, pairs: PairSet, settings: CDASSettings, options: FitOptions) -> SteeringVector:
    """Learn one concept direction (or r of them) by CDAS.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    fit = fit_interchange(model, pairs, settings, Objective(jensen_shannon, "teacher"), options)
    return clamp_vector("cdas", model, pairs, settings, fit)


CDAS = Method(
    name="cdas",
    family="interchange",
    paper="arXiv 2602.05234",
    summary="one direction trained so that clamping it matches the model's own counterfactual distribution, both ways",
    settings=CDASSettings,
    fit=fit_cdas,
    trial=trial_settings,
    many=lambda model, concepts, settings, options: clamp_vectors(
        "cdas", model, concepts, settings, Objective(jensen_shannon, "teacher"), options
    ),
)
