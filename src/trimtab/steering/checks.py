"""Checks that every tensor of the room passes when it is made."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.errors import InputError

MAX_CONDITION = 1e4
"""Largest condition number of a Gram matrix W W^T that a joint clamp will solve."""


def check_shape(name: str, tensor: Tensor, *dims: int) -> None:
    """Raise InputError unless the tensor has one of the given numbers of dimensions and is not empty."""
    if tensor.dim() not in dims or tensor.numel() == 0:
        allowed = " or ".join(f"{dim}-dimensional" for dim in dims)
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; it must be {allowed} and not empty")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise InputError if any entry is NaN or infinite."""
    if not torch.isfinite(tensor).all():
        raise InputError(f"{name} holds NaN or infinite values; fit it again or load an intact copy")


def check_gram(name: str, directions: Tensor) -> Tensor:
    """The inverse (r, r) of the Gram matrix of rows (r, d); InputError when the rows are nearly dependent."""
    rows = directions.double()
    gram = rows @ rows.T
    values = torch.linalg.eigvalsh(gram)
    if values[0] <= 0 or values[-1] / values[0] > MAX_CONDITION:
        raise InputError(
            f"{name}: the directions are zero or nearly parallel (condition number of W W^T above {MAX_CONDITION:g}); "
            "their clamps contradict each other: leave one out or merge them"
        )
    return torch.linalg.inv(gram)
