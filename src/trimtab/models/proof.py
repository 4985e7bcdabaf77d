"""When another way to compute something may be used instead of the plain one."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""Largest relative difference (Frobenius) between a shortcut and the plain way, a dtype."""

FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
"""What a shortcut may raise in a family that it is not for."""


def agrees(name: str, short: Tensor, plain: Tensor) -> bool:
    """Whether a shortcut gave what the plain way gave, but for rounding."""
    difference = float((short - plain).float().norm() / plain.float().norm().clamp_min(1e-30))
    is_same = difference <= TOLERANCE.get(plain.dtype, 1e-4)
    logger.info("shortcut %r differs by %.1e: %s", name, difference, "used" if is_same else "not used")
    return is_same
