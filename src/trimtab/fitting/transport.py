"""Maps that carry the states of one class onto those of the other, feature by feature: closed forms.

Source: Lin-AcT and its relatives, arXiv 2410.23054 (apple/ml-act). Every feature's two empirical distributions are
matched in order, which is optimal transport in one dimension. Letters: n, m rows, d width, k = max(n, m).
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting.items import Side
from trimtab.fitting.norm_sites import ReadSettings
from trimtab.fitting.states import BATCH, READINGS, ClassStates, Row
from trimtab.models.apply import steer
from trimtab.models.capture import capture
from trimtab.models.model import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Affine, Intervention, Positions, Site, Steering

CONSTANT = 1e-12
"""A feature whose variance is less than so much of its square is constant, and is moved instead of scaled."""


class DiagonalMap(NamedTuple):
    """T(h) = weight * h + bias, (d,) each, float64."""

    weight: Tensor
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        return h * self.weight.to(h.dtype) + self.bias.to(h.dtype)

    @property
    def affine(self) -> Affine:
        """As the transform that it is."""
        return Affine(self.weight, self.bias)


def quantiles(values: Tensor, k: int) -> Tensor:
    """Sorted values (n, d) as k quantiles (k, d), at the levels (i + 1/2) / k: linear between, constant at the ends.

    Differentiable; of k = n it is the sorted values themselves.
    """
    ordered, n = values.sort(dim=0).values, len(values)
    if n == k:
        return ordered
    place = ((torch.arange(k, dtype=torch.float64) + 0.5) * (n / k) - 0.5).clamp(0, n - 1)
    low = place.floor().long().clamp(max=n - 1)
    part = (place - low).to(values)[:, None]
    low = low.to(values.device)
    return ordered[low] * (1 - part) + ordered[(low + 1).clamp(max=n - 1)] * part


def sorted_pairs(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (k, d), each feature sorted, so that row i of one belongs to row i of the other."""
    k = max(len(source), len(target))
    return quantiles(source, k), quantiles(target, k)


def linear_map(source: Tensor, target: Tensor) -> DiagonalMap:
    """Least squares on the sorted pairs: slope cov / var, then the shift. Slopes are never negative."""
    u, w = sorted_pairs(source.double(), target.double())
    centred = u - u.mean(dim=0)
    variance, together = (centred * centred).mean(dim=0), (centred * (w - w.mean(dim=0))).mean(dim=0)
    return _with_shift(u, w, together, variance)


def gaussian_map(source: Tensor, target: Tensor) -> DiagonalMap:
    """(s2 / s1)(h - m1) + m2 with means m and deviations s."""
    u, w = source.double(), target.double()
    first, second = u.std(dim=0, correction=0), w.std(dim=0, correction=0)
    return _with_shift(u, w, second * first, first * first)


def mean_map(source: Tensor, target: Tensor) -> DiagonalMap:
    """h + m2 - m1: the means alone."""
    u, w = source.double(), target.double()
    return DiagonalMap(torch.ones_like(u[0]), w.mean(dim=0) - u.mean(dim=0))


def _with_shift(u: Tensor, w: Tensor, above: Tensor, below: Tensor) -> DiagonalMap:
    """The map with slope above / below (1 where a feature of the source is constant) that brings mean to mean."""
    mean = u.mean(dim=0)
    moves = below > CONSTANT * mean * mean + torch.finfo(torch.float64).tiny
    slope = torch.where(moves, above / torch.where(moves, below, 1.0), 1.0)
    return DiagonalMap(slope, w.mean(dim=0) - slope * mean)


MAP_KINDS: Mapping[str, Callable[[Tensor, Tensor], DiagonalMap]] = MappingProxyType(
    {"linear": linear_map, "gaussian": gaussian_map, "mean": mean_map}
)
"""By name: (source (n, d), target (m, d)) -> map."""


def sequential_maps(
    model: Model,
    pairs: PairSet,
    states: Mapping[Site, ClassStates],
    source: Side,
    kind: str,
    settings: ReadSettings,
    progress: ProgressCallback | None = None,
) -> dict[Site, DiagonalMap]:
    """A map a site, in order of execution; each sees its source states as the maps before it have changed them.

    Args:
        model: The model.
        pairs: What the states were read from.
        states: Both classes' states at every site, of the plain model, sites in order of execution.
        source: The class that is carried onto the other.
        kind: One of `MAP_KINDS`.
        settings: What is read and edited.
        progress: Told of every site.

    Raises:
        InputError: Too few rows for slopes, or states that nowhere vary.
    """
    target: Side = "negative" if source == "positive" else "positive"
    found: dict[Site, DiagonalMap] = {}
    began = time.monotonic()
    rows = class_rows(model, pairs, source, settings) if len(states) > 1 else []
    for number, (site, here) in enumerate(states.items()):
        sides = {"positive": here.positive, "negative": here.negative}
        now = _changed(model, rows, site, found, settings) if found else sides[source]
        if kind != "mean":
            check_spread(now, site, source)
        found[site] = MAP_KINDS[kind](now, sides[target])
        if progress is not None:
            progress(Progress(f"map {source}", number + 1, len(states), time.monotonic() - began))
    return found


def check_spread(source: Tensor, site: Site, name: str) -> None:
    """Raise InputError unless the states (n, d) of a class vary, so that they can be scaled."""
    if len(source) < 2:
        raise InputError(
            f"{len(source)} row of {name} states at {site} has no spread to be scaled; give at least 2 pairs, or "
            "map='mean'"
        )
    spread = source.double().std(dim=0, correction=0)
    if not bool((spread > CONSTANT * source.double().abs().amax(dim=0)).any()):
        raise InputError(
            f"all {len(source)} rows of {name} states at {site} are the same; give pairs that differ, or map='mean'"
        )


def class_rows(model: Model, pairs: PairSet, side: Side, settings: ReadSettings) -> list[Row]:
    """The prompts of a class with their responses."""
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    if side == "positive":
        return [(pair.positive, pair.positive_response) for pair in tokenised]
    return [(pair.negative, pair.negative_response) for pair in tokenised]


def _changed(
    model: Model, rows: Sequence[Row], site: Site, maps: Mapping[Site, DiagonalMap], settings: ReadSettings
) -> Tensor:
    """What is read of the rows at a site (n, d) while the maps found so far are at work."""
    positions, card = Positions.parse(settings.positions), model.card()
    edits = tuple(Intervention(where, found.affine, positions) for where, found in maps.items())
    steering = dataclasses.replace(Steering(edits, card.prefix_ids), label="the maps before")
    read: list[Tensor] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        with steer(model.hf, steering, prompt_lengths=[len(prompt.ids) for prompt, _ in batch]):
            seen = capture(model.hf, [prompt.ids + response for prompt, response in batch], [site], batch_size=BATCH)
        for (prompt, response), of_row in zip(batch, seen, strict=True):
            end = len(prompt.ids) + len(response)
            span = READINGS[settings.reading](prompt.prefix_length, len(prompt.ids), end)
            part = of_row[site][span.start : span.stop].float().cpu()
            read.append(part.mean(dim=0, keepdim=True) if span.is_mean else part)
    return torch.cat(read)
