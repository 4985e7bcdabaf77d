"""The first principal component of rows, in float64. Letters: n rows, d width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError

FLAT = 1e-26
"""Rows whose second moment is at most this part of what it was before their mean was taken off are all the same."""


@dataclass(frozen=True, eq=False)
class Component:
    """The direction along which rows spread most.

    Attributes:
        direction: (d,) float64 of length 1; its sign means nothing.
        share: Part of the rows' second moment that lies along it, from 0 to 1.
    """

    direction: Tensor
    share: float


def first_component(rows: Tensor, *, centre: bool) -> Component:
    """The first principal component.

    Args:
        rows: (n, d).
        centre: About the rows' mean; otherwise about zero, where the mean is part of what is found.

    Raises:
        InputError: There is no row, a number is not finite, or the rows do not differ (from zero, or from their mean).
    """
    x = rows.double()
    moment = float((x * x).sum())
    if not len(x) or not torch.isfinite(torch.tensor(moment)):
        raise InputError(f"no principal component of {len(x)} rows; give rows, and such that are finite")
    if centre:
        x = x - x.mean(dim=0)
    total = float((x * x).sum())
    if not total > FLAT * moment:
        what = "all the same" if centre else "all zero"
        raise InputError(f"no principal component of {len(x)} rows that are {what}; give pairs that differ")
    few = x.shape[0] < x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if few else x.T @ x)
    direction = x.T @ vectors[:, -1] if few else vectors[:, -1]
    return Component(direction / direction.norm(), float(values[-1]) / total)
