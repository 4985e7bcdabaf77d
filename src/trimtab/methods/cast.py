"""CAST, conditional activation steering: a behaviour for those rows alone whose prompt meets a condition.

Source: "Programming Refusal with Conditional Activation Steering", arXiv 2409.05907 (IBM/activation-steering).

    m = mean over the prompt's tokens of the output of block l,   c = the condition direction
    h' = h + [sim(m, c) > t] s (T(h) - h)         T the edit of a child method, at a block from l on

The condition is fitted to the prompts of the pairs: c is the first principal component of their means, each less the
middle of its pair (`pca`, published), or the difference of the classes' means (`mean`), towards the positive class; t
is the midpoint that tells the classes apart best (balanced accuracy), and l, unless given, the block up to the lowest
edited one where that is best, of equals the highest. suppress is applied to prompts that carry the concept, elicit to
those that do not: each to where it has something to do, and the other prompts' rows stay bit for bit what they are.

The condition is read in the forward of the prompt and holds for the row while it is continued.

Shapes: d hidden.

Deviations: the paper's sim(m, proj_c m) is the absolute cosine of m and c (`similarity="absolute"`; its code has tanh
around the projection, `tanh`). The default `cosine` keeps the sign, which tells more. Tokens of the template prefix
take no part. The code reads its condition in a first forward of its own and looks for l and t by a grid on F1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.gating import Threshold, best_threshold, condition_direction, similarities
from trimtab.fitting.norm_sites import CommonSettings, check_choice
from trimtab.fitting.settings import check_number, checked_layers
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.methods.wrapped import check_child, child_edits, gated
from trimtab.models import Model
from trimtab.steering import Edit, PromptGate, Site, SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.gates import SIMILARITIES

CONDITIONS = ("pca", "mean")


@dataclass(frozen=True)
class CastSettings(CommonSettings):
    """Settings of conditional activation steering.

    Args:
        layer: 0-based block whose output is edited, or several.
        child: Whose edit it is: `diffmean` or `linear-act`.
        condition: How its direction is found: `pca` or `mean`.
        condition_layer: Block whose output is compared with it; None = the best up to the lowest edited one.
        similarity: `cosine`, `absolute` (the paper's) or `tanh` (its code's).

    Raises:
        InputError: A setting outside its range, or a condition that is read behind the edit.
    """

    layer: int | tuple[int, ...] = field(kw_only=True)
    child: str = "diffmean"
    condition: str = "pca"
    condition_layer: int | None = None
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", checked_layers(self.layer))
        check_child(self.child)
        check_choice("condition", self.condition, CONDITIONS)
        check_choice("similarity", self.similarity, SIMILARITIES)
        if self.condition_layer is not None:
            check_number("condition_layer", self.condition_layer, least=0, most=self.layers[0], whole=True)

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited blocks in ascending order."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    @property
    def candidates(self) -> Sequence[int]:
        """The blocks at which the condition may be read."""
        return range(self.layers[0] + 1) if self.condition_layer is None else (self.condition_layer,)


class FittedCondition(NamedTuple):
    """A gate that is open for the positive class, and how many of the prompts it tells apart."""

    gate: PromptGate
    accuracy: float

    def gate_of(self, direction: str) -> PromptGate:
        """The gate of `suppress`, open for prompts with the concept, or of `elicit`, open for all others."""
        gate = self.gate
        side = gate.side if direction == "suppress" else -gate.side
        return PromptGate(gate.direction, gate.layer, gate.threshold, side, gate.similarity)


def fit_cast(model: Model, pairs: PairSet, settings: CastSettings, options: FitOptions) -> SteeringVector:
    """The child's edits, each behind the condition on the prompt.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, prompts that do not
            differ or cannot be told apart, or whatever the child refuses.
    """
    began = time.monotonic()
    sites = [Site(layer) for layer in settings.candidates]
    read = closed_states("cast", model, pairs, settings.closed("prompt"), options, sites)
    found = fit_condition([read[site] for site in sites], settings.condition, settings.similarity)
    edits: list[Edit] = []
    directions: dict[str, tuple[int, ...]] = {}
    for way, of_way in child_edits(settings.child, model, pairs, settings.layers, settings, options).items():
        directions[way] = tuple(range(len(edits), len(edits) + len(of_way)))
        gate = found.gate_of(way)
        edits += [gated(edit, gate) for edit in of_way]
    condition: dict[str, JSON] = {
        "layer": found.gate.layer,
        "threshold": found.gate.threshold,
        "accuracy": round(found.accuracy, 4),
    }
    figures: dict[str, JSON] = {"condition": condition}
    return closed_vector("cast", model, pairs, settings, tuple(edits), directions, began, figures)


def fit_condition(states: Sequence[ClassStates], how: str, kind: str) -> FittedCondition:
    """The condition at the site where it tells the prompts apart best; of equals the last.

    Args:
        states: Mean states of both classes' prompts, at block outputs.
        how: One of `CONDITIONS`.
        kind: One of `SIMILARITIES`.

    Raises:
        InputError: It tells them apart nowhere.
    """
    number = SIMILARITIES.index(kind)
    tried: list[tuple[Threshold, PromptGate]] = []
    problem: InputError | None = None
    for here in states:
        try:
            direction = condition_direction(here.positive, here.negative, how)
            sides = [similarities(rows, direction, number) for rows in (here.positive, here.negative)]
            found = best_threshold(*sides, both_sides=kind != "cosine")
        except InputError as error:  # at the lowest blocks all prompts may look alike
            problem = error
            continue
        tried.append((found, PromptGate(direction, here.site.layer, found.value, found.side, number)))
    if not tried:
        assert problem is not None  # there is a site
        raise problem
    best, gate = max(tried, key=lambda pair: (pair[0].accuracy, pair[1].layer))
    if best.accuracy <= 0.5:
        raise InputError(
            f"no condition at blocks {', '.join(str(here.site.layer) for here in states)} tells the "
            f"{len(states[0].positive)} pairs' prompts apart better than chance; give pairs whose prompts differ, or "
            "another layer"
        )
    return FittedCondition(gate, best.accuracy)


CAST = Method(
    name="cast",
    family="gated",
    paper="arXiv 2409.05907",
    summary="another method's edit, for rows alone whose prompt meets a condition",
    settings=CastSettings,
    fit=fit_cast,
)
