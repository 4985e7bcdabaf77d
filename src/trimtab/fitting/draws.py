"""Factors that are drawn while an edit is trained, so that it works at many strengths.

Letters: n pairs of a step, w ways, a answers of an item (2 for a preference, else 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class FactorDraw:
    """How factors are drawn.

    Attributes:
        draw: (n, w, a, generator) -> factors (n, w, a) float32.
        usual: The factor of each way that stands for it in figures of a fit.
    """

    draw: Callable[[int, int, int, Generator], Tensor]
    usual: tuple[float, ...]


def sign_a_batch(n: int, ways: int, answers: int, generator: Generator) -> Tensor:
    """One sign for all, 1 or -1 with equal chances: BiPO (arXiv 2406.00045)."""
    sign = 2.0 * torch.randint(0, 2, (), generator=generator) - 1.0
    return sign.expand(n, ways, answers)


def one_of(factors: tuple[float, ...], *, signs: tuple[float, ...] = (1.0,)) -> FactorDraw:
    """One of the factors for every answer of every item, each on its own; those of way k are multiplied by `signs[k]`.

    A sign of 0 makes every factor of its way 0.
    """
    values, of_ways = torch.tensor(factors), torch.tensor(signs)

    def draw(n: int, ways: int, answers: int, generator: Generator) -> Tensor:
        chosen = torch.randint(0, len(values), (n, ways, answers), generator=generator)
        return values[chosen] * of_ways[:, None]

    middle = float(values.median())
    return FactorDraw(draw, tuple(middle * sign for sign in signs))


def signed_one_of(factors: tuple[float, ...]) -> FactorDraw:
    """One of the factors for every answer of every item, each on its own, with one sign for both answers of an item.

    1 or -1 with equal chances: SPLIT (arXiv 2602.02343).
    """
    values = torch.tensor(factors)

    def draw(n: int, ways: int, answers: int, generator: Generator) -> Tensor:
        signs = 2.0 * torch.randint(0, 2, (n, ways, 1), generator=generator) - 1.0
        return signs * values[torch.randint(0, len(values), (n, ways, answers), generator=generator)]

    return FactorDraw(draw, (float(values.median()),))
