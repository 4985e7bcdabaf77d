"""RAPTOR: a ridge probe, and the least edit that brings its probability to a target.

Source: arXiv 2602.00158; code Ziqi-Gao/RAPTOR.

    fit       a fifth of the pairs for the test, a fifth of the rest for validation; columns standardised by the others
              logistic regression for each c of a geometric path; best validation accuracy, of ties the smallest c
              fitted again to training and validation rows, folded back:  w = w_std / scale,  b = b_std - <w, mean>
    v = w / |w|,  t(p) = (logit(p) - b) / |w|
    elicit:   h' = h + (t(p) - <v, h>) v        where <v, h> < t(p), h elsewhere
    suppress: h' = h + (t(1 - p) - <v, h>) v    where <v, h> > t(1 - p), h elsewhere

Shapes: d hidden, n pairs.

At multiplier 1 sigmoid(<w, h'> + b) is the target exactly; the multiplier moves the coordinate that is set along the
line from the other class's mean (0) to the target (1), while the gate stays where it is.

Deviations from the published code: it steers with the vector of length 1 and a bias of 0 inside the logit, so what it
calls a probability is not the probe's; `published_logit` does the same. It edits several layers at once, those whose
probes have more than 0.9 test accuracy; here it is one, which the search for a layer finds, and the test accuracy is
in the provenance. It edits the last token of every forward of a generation: the prompt's last and those behind it;
`positions="response"`, the default, means the same here. The split is by pairs, so that the two sides of one pair are
never on both sides of it. The published path of c is meant for data of a thousand rows and more: the loss is a sum over
rows, so that the same c holds a probe of few rows down far more, and of few rows that separate every c ties and the
smallest is taken, at which a probability of 0.9999 lies dozens of gaps of the classes away. So c is here multiplied by
`path_rows` over the number of rows; `path_rows=None` takes the path as it is. The provenance's `target_gaps` says where
the targets came to lie.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.boundary import Boundary, above, below
from trimtab.fitting.closed import ClosedSettings, auroc, check_paired, closed_states, closed_vector
from trimtab.fitting.ridge import TunedProbe, tune_probe
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Clamp, Edit, Factors, FactorStats, Intervention, Positions, Site, SteeringVector
from trimtab.steering.content import JSON


@dataclass(frozen=True)
class RaptorSettings(ClosedSettings):
    """Settings of RAPTOR.

    Args:
        positions: Which tokens are edited; with `response` the prompt's last token is too, as published.
        reading: What is learnt from; the prompt's last token by default. `tokens` is not possible.
        p_target: The probability that eliciting brings the probe to; suppressing brings it to one less this.
        c_least: The smallest inverse strength of the path.
        c_most: The largest one.
        path: How many of them, a constant ratio apart.
        path_rows: For how many rows the path is meant; c is multiplied by this over the number there are. None = not.
        published_logit: Take the direction of length 1 and no bias for the probe when steering, as published.

    Raises:
        InputError: A setting outside its range.
    """

    positions: str = "response"
    reading: str = "last"
    p_target: float = 0.9999
    c_least: float = 1e-4
    c_most: float = 1e2
    path: int = 100
    path_rows: int | None = 1000
    published_logit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_paired("raptor", self)
        check_number("p_target", self.p_target, above=0.5, most=1 - 1e-9)
        check_number("c_least", self.c_least, above=0)
        check_number("c_most", self.c_most, least=self.c_least)
        check_number("path", self.path, least=1, whole=True)
        if self.path_rows is not None:
            check_number("path_rows", self.path_rows, least=1, whole=True)
        if not isinstance(self.published_logit, bool):
            raise InputError(f"published_logit is {self.published_logit!r}; it must be true or false")

    def strengths(self, rows: int) -> list[float]:
        """The path of c, ascending, for so many rows."""
        ends = math.log10(self.c_least), math.log10(self.c_most)
        scale = 1.0 if self.path_rows is None else self.path_rows / rows
        return (scale * torch.logspace(*ends, self.path, dtype=torch.float64)).tolist()

    @property
    def places(self) -> tuple[Positions, ...]:
        """Rules that together pick the tokens to edit."""
        chosen = Positions.parse(self.positions)
        return (Positions("last"), chosen) if chosen.scope == "response" else (chosen,)


def find_probe(states: ClassStates, settings: RaptorSettings) -> tuple[Boundary, TunedProbe]:
    """The tuned probe, and its boundary.

    Raises:
        InputError: Too few pairs to split, or states that a probe cannot be fitted to.
    """
    strengths = settings.strengths(2 * len(states.positive))
    tuned = tune_probe(states.positive, states.negative, strengths, seed=settings.seed)
    boundary = Boundary.of(tuned.probe, states)
    boundary.check_sides(states)
    if not settings.published_logit:
        return boundary, tuned
    return dataclasses.replace(boundary, threshold=0.0, steepness=1.0), tuned


def probability_edits(boundary: Boundary, settings: RaptorSettings) -> tuple[list[Edit], list[Edit]]:
    """What elicits and what suppresses, an edit a place."""
    v, logit = boundary.direction, math.log(settings.p_target / (1 - settings.p_target))
    high, low = boundary.coordinate(logit), boundary.coordinate(-logit)
    sides: list[list[Edit]] = []
    for direction, gate, factors in (
        ("elicit", below(v, high), Factors(_exactly(high), boundary.negative)),
        ("suppress", above(v, low), Factors(boundary.positive, _exactly(low))),
    ):
        clamp = Clamp(v, factors.value(direction, 1.0))
        sides.append([Edit(Intervention(Site(settings.layer), clamp, at, gate), factors) for at in settings.places])
    return sides[0], sides[1]


def _in_gaps(edit: Edit, boundary: Boundary) -> float:
    """Where an edit's target lies on the way from the negative class's mean (0) to the positive one's (1)."""
    clamp = edit.intervention.transform
    assert isinstance(clamp, Clamp)
    return (float(clamp.values) - boundary.negative.mean[0]) / boundary.gap


def _exactly(coordinate: float) -> FactorStats:
    return FactorStats((coordinate,), (0.0,), 1)


def fit_raptor(model: Model, pairs: PairSet, settings: RaptorSettings, options: FitOptions) -> SteeringVector:
    """A tuned probe, and the edits that bring it to the target probabilities.

    Raises:
        InputError: A layer the model does not have, too few pairs or such that do not fit the context, states that a
            probe cannot be fitted to, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    states = closed_states("raptor", model, pairs, settings, options)[Site(settings.layer)]
    boundary, tuned = find_probe(states, settings)
    up, down = probability_edits(boundary, settings)
    directions = {
        "elicit": tuple(range(len(up))),
        "suppress": tuple(range(len(up), len(up) + len(down))),
    }
    figures: dict[str, JSON] = {
        "c": tuned.c,
        "validation_accuracy": tuned.validation,
        "test_accuracy": tuned.test,
        "auroc": auroc(boundary.direction, states),
        "target_gaps": [_in_gaps(edits[0], boundary) for edits in (up, down)],
    }
    return closed_vector("raptor", model, pairs, settings, (*up, *down), directions, began, figures)


RAPTOR = Method(
    name="raptor",
    family="closed-form",
    paper="arXiv 2602.00158",
    summary="a ridge probe tuned on held-out pairs, whose probability is set to a target by the least edit",
    settings=RaptorSettings,
    fit=fit_raptor,
)
