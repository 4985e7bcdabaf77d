"""Factors: the values of a coordinate in data, per class, and how a multiplier moves along them.

Units: the coordinate <w, h> of the residual stream along a direction, float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import own_float32

SCALES = ("gap", "published")
DIRECTIONS = ("elicit", "suppress")


@dataclass(frozen=True)
class FactorStats:
    """The values that one class takes on r coordinates.

    Args:
        mean: r means.
        std: r sample standard deviations (0 for one row).
        n: Number of rows.
        values: (n, r) float32, the rows themselves, or None when they were not kept.

    Raises:
        InputError: No row, means and deviations that are not one each, numbers that are not finite, a negative
            deviation, or values of another shape.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    n: int
    values: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or self.n < 1:
            raise InputError(
                f"factor with {len(self.mean)} means, {len(self.std)} stds and n={self.n}; need one each, n >= 1"
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        if not all(math.isfinite(x) for x in (*self.mean, *self.std)) or min(self.std) < 0:
            raise InputError("factor holds NaN, infinite values or a negative deviation; fit the vector again")
        if self.values is None:
            return
        if tuple(self.values.shape) != (self.n, len(self.mean)):
            raise InputError(
                f"factor values have shape {tuple(self.values.shape)}; expected ({self.n}, {len(self.mean)})"
            )
        object.__setattr__(self, "values", own_float32("factor values", self.values))

    @classmethod
    def of(cls, values: Tensor) -> FactorStats:
        """Statistics of rows, which are kept.

        Args:
            values: (n, r), one row an example, in the units of the coordinates.

        Raises:
            InputError: No row, or a value that is not finite.
        """
        rows = values.detach().to(device="cpu", dtype=torch.float64)
        std = rows.std(dim=0) if rows.shape[0] > 1 else torch.zeros(rows.shape[1])
        return cls(tuple(rows.mean(dim=0).tolist()), tuple(std.tolist()), rows.shape[0], rows.float().contiguous())


@dataclass(frozen=True)
class Factors:
    """Both classes' values of the r coordinates of one clamp.

    Args:
        positive: Of the class in which the concept is present.
        negative: Of the class in which it is absent.

    Raises:
        InputError: The classes have different numbers of coordinates.
    """

    positive: FactorStats
    negative: FactorStats

    def __post_init__(self) -> None:
        if len(self.positive.mean) != len(self.negative.mean):
            raise InputError("positive and negative factors have different rank")

    def value(self, direction: str, multiplier: float, scale: str = "gap") -> Tensor:
        """What to clamp the coordinates to, (r,) float32.

        `gap`: elicit f_neg + m (f_pos - f_neg), suppress f_pos + m (f_neg - f_pos); m = 1 is the class's own value,
        m = 0 the other class's. `published`: m * f of the class, which moves the wrong way when both share a sign; kept
        for parity with the published code.

        Raises:
            InputError: Unknown direction or scale, multiplier not finite or far too large.
        """
        check_direction(direction)
        if scale not in SCALES:
            raise InputError(f"unknown scale {scale!r}; allowed: {', '.join(SCALES)}")
        check_multiplier(multiplier)
        positive = torch.tensor(self.positive.mean, dtype=torch.float64)
        negative = torch.tensor(self.negative.mean, dtype=torch.float64)
        target, other = (positive, negative) if direction == "elicit" else (negative, positive)
        value = multiplier * target if scale == "published" else other + multiplier * (target - other)
        if value.abs().max() > torch.finfo(torch.float32).max:
            raise InputError(f"multiplier {multiplier} puts the clamped coordinate beyond float32; 1 is as learned")
        return value.float()


def check_direction(direction: str, allowed: Sequence[str] = DIRECTIONS) -> None:
    """Raise InputError unless `direction` is one of those allowed."""
    if direction not in allowed:
        raise InputError(f"unknown direction {direction!r}; allowed: {', '.join(allowed)}")


def check_multiplier(multiplier: float) -> None:
    """Raise InputError unless the multiplier is a finite number."""
    if not math.isfinite(multiplier):
        raise InputError(f"multiplier {multiplier} is not a finite number; 1 is the factor as learned from data")
