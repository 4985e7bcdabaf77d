"""Checks that every tensor of the room passes when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

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


def check_ids(name: str, ids: Iterable[int]) -> tuple[int, ...]:
    """Token ids as plain integers; InputError if one is no whole number of at least 0."""
    ids = tuple(ids)
    if not all(isinstance(token, Integral) and token >= 0 for token in ids):
        raise InputError(f"{name} are {list(ids)}; token ids are whole numbers from 0")
    return tuple(int(token) for token in ids)


def own_float32(name: str, tensor: Tensor) -> Tensor:
    """A float32 copy that nobody else can change; InputError if an entry is not finite in float32."""
    copy = tensor.detach().to(torch.float32, copy=True).contiguous()
    check_finite(name, copy)
    return copy


def check_gram(name: str, directions: Tensor) -> Tensor:
    """The inverse (r, r) of the Gram matrix of rows (r, d), float64 on the CPU (not every device has float64).

    Raises:
        InputError: The rows are nearly dependent, or so long or short that float32 cannot hold the inverse.
    """
    rows = directions.detach().cpu().double()
    gram = rows @ rows.T
    values = torch.linalg.eigvalsh(gram)
    if values[0] <= 0 or values[-1] / values[0] > MAX_CONDITION:
        raise InputError(
            f"{name}: the directions are zero or nearly parallel (condition number of W W^T above {MAX_CONDITION:g}); "
            "their clamps contradict each other: leave one out or merge them"
        )
    inverse = torch.linalg.inv(gram)
    limits = torch.finfo(torch.float32)
    if inverse.diagonal().min() < limits.tiny or inverse.abs().max() > limits.max:
        lengths = ", ".join(f"{length:.3g}" for length in rows.norm(dim=1).tolist())
        raise InputError(f"{name}: directions of length {lengths} have squares beyond float32; scale them to length 1")
    return inverse
