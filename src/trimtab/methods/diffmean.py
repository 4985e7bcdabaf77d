"""Difference in means: the plainest closed form, no training.

Source: Marks & Tegmark, "The Geometry of Truth", arXiv 2310.06824; as a steering baseline AxBench, arXiv 2501.17148.

    v = mean of h over tokens of positive prompts with their responses, less that of negative ones
    elicit: h' = h + m v        suppress: h' = h - m v

Tokens of the template prefix take no part. Shapes: d hidden, s tokens of a row.

Deviations from AxBench: v keeps its length instead of being brought to norm 1, so that the multiplier 1 means the gap
that the data have, as it does everywhere in trimtab.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.means import class_means
from trimtab.fitting.settings import check_number
from trimtab.fitting.vectors import origin
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class DiffMeanSettings:
    """Settings of the difference in means.

    Args:
        layer: 0-based block whose output is read and edited.
        positions: Which tokens are edited: all, prompt, response, last, f<N>+l<M>.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.

    Raises:
        InputError: A setting outside its range.
    """

    layer: int
    positions: str = "all"
    max_response_tokens: int | None = None
    truncate: bool = False

    def __post_init__(self) -> None:
        check_number("layer", self.layer, least=0, whole=True)
        if self.max_response_tokens is not None:
            check_number("max_response_tokens", self.max_response_tokens, least=1, whole=True)
        Positions.parse(self.positions)


def fit_diffmean(model: Model, pairs: PairSet, settings: DiffMeanSettings, options: FitOptions) -> SteeringVector:
    """The difference of the classes' mean states as an additive vector.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, classes that do not
            differ, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    if (options.init, options.order, options.trace) != (None, None, None):
        raise InputError("diffmean is solved in closed form; leave out --init, --order and --trace")
    positive, negative = class_means(
        model,
        pairs,
        settings.layer,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
        progress=options.progress,
    )
    difference = positive - negative
    if not float(difference.norm()) > 0:
        raise InputError(f"both classes have the same mean state at layer {settings.layer}; give pairs that differ")
    positions = Positions.parse(settings.positions)
    edits = tuple(
        Edit(Intervention(Site(settings.layer), Add(sign * difference), positions), scales="strength")
        for sign in (1.0, -1.0)
    )
    return SteeringVector(
        method="diffmean",
        model=model.card(),
        edits=edits,
        directions={"elicit": (0,), "suppress": (1,)},
        settings=dataclasses.asdict(settings),
        provenance=origin(model, pairs) | {"training": {"seconds": round(time.monotonic() - began, 3), "steps": 0}},
    )


DIFFMEAN = Method(
    name="diffmean",
    family="closed-form",
    paper="arXiv 2310.06824",
    summary="the difference of the classes' mean states, added",
    settings=DiffMeanSettings,
    fit=fit_diffmean,
)
