"""How well the two classes separate on a learned coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trimtab.errors import InputError
from trimtab.steering.factors import Factors


@dataclass(frozen=True)
class Separation:
    """Two figures of one coordinate.

    Attributes:
        d_prime: (mean_pos - mean_neg) / sqrt((var_pos + var_neg) / 2); infinite when neither class varies.
        auroc: Chance that a positive row lies above a negative one, ties counting half; None without stored rows.
    """

    d_prime: float
    auroc: float | None


def separation(factors: Factors, coordinate: int = 0) -> Separation:
    """Separation of the classes on one of the r coordinates.

    Args:
        factors: Both classes' values, as an edit of a vector holds them.
        coordinate: 0-based number of the coordinate, below the rank r.

    Raises:
        InputError: The vector has no such coordinate.
    """
    _check_coordinate(factors, coordinate)
    positive, negative = factors.positive, factors.negative
    gap = positive.mean[coordinate] - negative.mean[coordinate]
    spread = math.sqrt((positive.std[coordinate] ** 2 + negative.std[coordinate] ** 2) / 2)
    d_prime = gap / spread if spread > 0 else math.copysign(math.inf, gap) if gap else 0.0
    if positive.values is None or negative.values is None:
        return Separation(d_prime, None)
    above = positive.values[:, coordinate, None] - negative.values[None, :, coordinate]
    auroc = ((above > 0).double() + 0.5 * (above == 0).double()).mean()
    return Separation(d_prime, float(auroc))


def histogram(factors: Factors, *, bins: int = 20, coordinate: int = 0) -> tuple[list[float], list[int], list[int]]:
    """Edges (bins + 1) and counts of the positive and the negative rows on shared bins.

    Raises:
        InputError: The vector was saved without the rows' values, or a coordinate or number of bins that cannot be.
    """
    _check_coordinate(factors, coordinate)
    if bins < 1:
        raise InputError(f"{bins} bins cannot hold anything; give at least 1")
    positive, negative = factors.positive.values, factors.negative.values
    if positive is None or negative is None:
        raise InputError("this vector keeps only means of its factors; no histogram can be drawn")
    p, n = positive[:, coordinate].double(), negative[:, coordinate].double()
    both = torch.cat([p, n])
    low, high = float(both.min()), float(both.max())
    high = high if high > low else low + 1.0
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = [torch.histc(x, bins=bins, min=low, max=high).long().tolist() for x in (p, n)]
    return edges.tolist(), counts[0], counts[1]


def _check_coordinate(factors: Factors, coordinate: int) -> None:
    if not 0 <= coordinate < len(factors.positive.mean):
        raise InputError(f"coordinate {coordinate} does not exist; the vector has rank {len(factors.positive.mean)}")
