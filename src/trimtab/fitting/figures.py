"""Figures of a fit that are read off the plain states it was made on: sizes, ratios, readings.

Letters: b batch, s tokens, d hidden, m sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.fitting.buckets import buckets
from trimtab.fitting.cache import BUILD_TOKENS, FrozenCache
from trimtab.fitting.edits import FACTOR, EditKind
from trimtab.fitting.items import Item
from trimtab.steering import Factors

RATIO_ITEMS = 64
SIZE_ITEMS = 64
"""Items of each fit that a ratio or a typical size is read from."""


def edit_ratio(
    cache: FrozenCache,
    items: Sequence[Item],
    of_ways: Sequence[Sequence[int]],
    parameters: Mapping[str, Tensor],
    factors: Sequence[Factors],
    kind: EditKind,
) -> dict[str, float]:
    """Median of |h' - h| / |h| at the lowest site over prompt tokens after the prefix, for some items a direction.

    A clamp is set to its factor. A direction without such tokens, or with states that are not finite, has none.
    """
    ratios, lowest = {}, {name: value[0] for name, value in parameters.items()}
    for place, (way, numbers) in enumerate(zip(kind.ways, of_ways, strict=True)):
        direction, chosen = way.direction, list(numbers)[:RATIO_ITEMS]
        drawn = {} if kind.draw is None else {FACTOR: torch.tensor([kind.draw.usual[place]])}
        found = []
        for group in buckets([len(items[k].base) for k in chosen], BUILD_TOKENS):
            of_group = [chosen[place] for place in group]
            for k, states in zip(of_group, cache.base(of_group), strict=True):
                tokens = states[items[k].prefix : items[k].base_prompt].float().cpu()
                if factors:
                    rows = lowest["directions"]
                    moved = (factors[0].value(direction, 1.0) - tokens @ rows.T) @ rows
                else:
                    mask = torch.ones(1, len(tokens), dtype=torch.bool)
                    own = {**lowest, **drawn}
                    moved = kind.apply(tokens[None], tokens[None, 0], own, mask)[0] - tokens if len(tokens) else tokens
                found.append(moved.norm(dim=1) / tokens.norm(dim=1).clamp_min(1e-12))
        ratios[direction] = float(torch.cat(found).median())
    return {direction: ratio for direction, ratio in ratios.items() if math.isfinite(ratio)}


def typical_size(cache: FrozenCache, masks: Sequence[Tensor], numbers: Sequence[int]) -> float:
    """Median norm of the plain states at the edited tokens of some items, over the square root of their width.

    An edit that is measured in it does as much to a model with states of norm 10 as to one with states of norm 1000.
    The median, since some models keep a few tokens that are a hundred times longer.
    """
    norms = []
    for group in _pieces(numbers[:SIZE_ITEMS]):
        for number, states in zip(group, cache.base(group), strict=True):
            edited = states[masks[number].to(states.device)].float()
            norms.append(edited.norm(dim=1).cpu() / edited.shape[1] ** 0.5)
    found = torch.cat(norms)
    return float(found.median()) if len(found) else 1.0


def _pieces(numbers: Sequence[int]) -> list[list[int]]:
    """Items few at a time, whose states may have to be made again."""
    return [list(numbers[start : start + 8]) for start in range(0, len(numbers), 8)]


@torch.no_grad()
def mean_readings(
    cache: FrozenCache,
    masks: Sequence[Tensor],
    of_ways: Sequence[Sequence[int]],
    parameters: Mapping[str, Tensor],
    kind: EditKind,
) -> tuple[float, ...]:
    """What the kind reads off the plain states at the lowest site, its mean over the items of each way."""
    if kind.reading is None:
        return ()
    lowest, found = {name: value[0] for name, value in parameters.items()}, []
    for numbers in of_ways:
        values = [
            kind.reading(states[None].float().cpu(), lowest, masks[number][None])
            for group in _pieces(numbers)
            for number, states in zip(group, cache.base(group), strict=True)
        ]
        found.append(float(torch.cat(values).mean()))
    return tuple(found)
