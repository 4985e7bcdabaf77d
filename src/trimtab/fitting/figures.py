"""Figures of a fit that are read off the plain states it was made on: their size, and what a kind of edit finds there.

Letters: b batch, s tokens, d hidden, m sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.fitting.cache import FrozenCache
from trimtab.fitting.edits import EditKind

SIZE_ITEMS = 64
"""Items of each fit that the typical size of its states is read from."""


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
    found = found[torch.isfinite(found)]  # a fit on others says so at its first step
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
