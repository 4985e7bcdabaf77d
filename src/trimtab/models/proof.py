"""When another way to compute something may be used instead of the plain one."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""Largest relative difference (Frobenius) between a shortcut and the plain way, a dtype."""

WORST = 5.0
"""How much more than that a single token may differ."""

FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
"""What a shortcut may raise in a family that it is not for."""


def agrees(name: str, short: Tensor, plain: Tensor) -> bool:
    """Whether a shortcut gave what the plain way gave (n, d), but for rounding: all tokens together, and each."""
    most, each = difference(short, plain), float(_relative(short, plain, -1).max())
    tolerance = TOLERANCE.get(plain.dtype, 1e-4)
    is_same = most <= tolerance and each <= WORST * tolerance
    logger.info(
        "shortcut %r differs by %.1e, at a token by %.1e: %s", name, most, each, "used" if is_same else "not used"
    )
    return is_same


def difference(one: Tensor, other: Tensor) -> float:
    """How far one tensor lies from another, relative to that one's size (Frobenius)."""
    return float(_relative(one, other, None))


def _relative(one: Tensor, other: Tensor, dim: int | None) -> Tensor:
    norm = torch.linalg.vector_norm
    return norm((one - other).float(), dim=dim) / norm(other.float(), dim=dim).clamp_min(1e-30)
