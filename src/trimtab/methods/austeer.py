"""AUSteer: single dimensions that move one way in most pairs are scaled.

Source: "Fine-grained activation steering", arXiv 2602.04428, code zijian678/AUSteer.

    D_i = a+_i - a-_i at the last token of each pair's rows (prompt and response), every dimension i of every layer
    b_i = sign * max(#(D_i > 0), #(D_i < 0)) / pairs,   sign -1 where the negatives are more
    elicit: x_i' = x_i (1 + m s b_i)        suppress: x_i' = x_i (1 - m s b_i)        for the `top` greatest |b|

over all layers together, at one kind of site: attn_in (what the heads hand to their output projection), mlp_out or
resid_post. s is `strength`, the paper's alpha.

The rule is multiplicative: a zero stays zero, and a sign turns where m s b < -1. b depends on signs alone, so that no
outlier moves it; where as many pairs go either way it is +1/2 by the formula, as published, and 0 where no pair moves.

Deviations from the published code: few pairs leave many dimensions with equal |b|, where a sort's whim decides. Here
the greater |median D_i| / median |a_i| goes first (no outlier moves this either), then the lower layer, then the lower
dimension. The published k and alpha are tuned for each task (k 2 to 100, alpha 8 to 100).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_vector, refuse_training_options
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import READINGS, ClassStates, read_states
from trimtab.fitting.whole_model import WholeModelSettings
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Affine, Edit, Intervention, Positions, Site, SteeringVector

SITES = ("attn_in", "mlp_out", "resid_post")
MOST_STRENGTH = 1e6


@dataclass(frozen=True)
class AUSteerSettings(WholeModelSettings):
    """Settings of AUSteer.

    Args:
        site: Kind of site whose dimensions are scaled: `attn_in`, `mlp_out` or `resid_post`.
        reading: What of a row is compared; see `ClosedSettings`. Not `tokens`, which are no pairs.
        top: How many dimensions are scaled, of all layers together; all that differ where these are fewer.
        strength: s, how much: at multiplier 1 a dimension with b = 1 is multiplied by 1 + s.

    Raises:
        InputError: A setting outside its range.
    """

    site: str = "attn_in"
    reading: str = "answer"
    top: int = 100
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site not in SITES:
            raise InputError(f"site is {self.site!r}; allowed: {', '.join(SITES)}")
        readings = [name for name in READINGS if name != "tokens"]
        if self.reading not in readings:
            raise InputError(f"reading is {self.reading!r}; allowed: {', '.join(readings)}")
        check_number("top", self.top, least=1, whole=True)
        check_number("strength", self.strength, above=0, most=MOST_STRENGTH)


def momentum(positive: Tensor, negative: Tensor) -> Tensor:
    """The share b (d,) of pairs that move the way of most, with its sign, of rows (n, d) and (n, d); float64."""
    up, down = (positive > negative).sum(dim=0), (positive < negative).sum(dim=0)
    sign = torch.where(down > up, -1.0, 1.0).double()
    return sign * torch.maximum(up, down) / len(positive)


def relative_shift(positive: Tensor, negative: Tensor) -> Tensor:
    """|median of the differences| / median size (d,): which of two dimensions of the same b goes first; float64."""
    moved = (positive - negative).double().median(dim=0).values.abs()
    size = torch.cat([positive, negative]).double().abs().median(dim=0).values
    return moved / torch.where(size > 0, size, torch.ones_like(size))


def top_dimensions(states: Mapping[Site, ClassStates], top: int) -> dict[Site, Tensor]:
    """By site b (d,), 0 but for the `top` dimensions of the greatest |b| of all sites together.

    Sites that have none of them are left out.
    """
    sites = sorted(states)
    shares = [momentum(states[site].positive, states[site].negative) for site in sites]
    shifts = [relative_shift(states[site].positive, states[site].negative) for site in sites]
    everywhere, among = torch.cat(shares), torch.cat(shifts)
    order = torch.argsort(among, descending=True, stable=True)
    order = order[torch.argsort(everywhere[order].abs(), descending=True, stable=True)][:top]
    kept = torch.zeros_like(everywhere)
    kept[order] = everywhere[order]
    parts = zip(sites, kept.split([len(share) for share in shares]), strict=True)
    return {site: part.float() for site, part in parts if bool(part.any())}


def fit_austeer(model: Model, pairs: PairSet, settings: AUSteerSettings, options: FitOptions) -> SteeringVector:
    """The dimensions of all layers that most pairs move one way.

    Raises:
        InputError: No pairs or such that do not fit the context, classes that do not differ, a site the model does
            not have, or a start vector, order or trace.
    """
    began = time.monotonic()
    refuse_training_options("austeer", options)
    states = read_states(
        model,
        pairs,
        [Site(layer, settings.site) for layer in range(model.n_blocks)],
        settings.reading,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
        progress=options.progress,
    )
    kept = top_dimensions(states, settings.top)
    if not kept:
        raise InputError(f"no dimension differs between the classes of {len(pairs)} pairs; give pairs that differ")
    positions = Positions.parse(settings.positions, include_prefix=settings.include_prefix)
    edits = tuple(
        Edit(
            Intervention(
                site, Affine(1 + sign * share, torch.zeros_like(share)), positions, strength=settings.strength
            ),
            scales="strength",
        )
        for sign in (1.0, -1.0)
        for site, share in kept.items()
    )
    n = len(kept)
    directions = {"elicit": tuple(range(n)), "suppress": tuple(range(n, 2 * n))}
    figures = {
        "dimensions": {str(site): [int(i) for i in share.nonzero()[:, 0]] for site, share in kept.items()},
        "least_share": min(float(share[share != 0].abs().min()) for share in kept.values()),
    }
    return closed_vector("austeer", model, pairs, settings, edits, directions, began, figures)


AUSTEER = Method(
    name="austeer",
    family="component",
    paper="arXiv 2602.04428",
    summary="the single dimensions, of all layers, that move one way in most pairs, scaled",
    settings=AUSteerSettings,
    fit=fit_austeer,
    places="model",
)
