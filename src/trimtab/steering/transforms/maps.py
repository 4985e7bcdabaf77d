"""Transforms that are affine maps of the state. Shapes: d hidden, r rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_shape, own_float32


@dataclass(frozen=True, eq=False)
class Affine:
    """T(h) = A h + b, with A full (d, d) or diagonal (d,).

    Args:
        weight: A, (d, d) or its diagonal (d,).
        bias: b, (d,), in the units of the residual stream.

    Raises:
        InputError: Mis-shaped or non-finite tensors, or a weight whose width is not that of the bias.
    """

    kind: ClassVar[str] = "affine"
    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        check_shape("affine weight", self.weight, 1, 2)
        check_shape("affine bias", self.bias, 1)
        d = self.bias.shape[0]
        if self.weight.shape not in ((d,), (d, d)):
            raise InputError(
                f"affine weight has shape {tuple(self.weight.shape)}; with a bias of {d} allow ({d},) or ({d}, {d})"
            )
        object.__setattr__(self, "weight", own_float32("affine weight", self.weight))
        object.__setattr__(self, "bias", own_float32("affine bias", self.bias))

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.bias.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return self.bias.shape[0]

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        weight = self.weight.to(h.dtype)
        moved = h * weight if weight.dim() == 1 else h @ weight.T
        return moved + self.bias.to(h.dtype)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.weight.to(device), self.bias.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True, eq=False)
class LowRank:
    """T(h) = h + R^T (W h + b - R h): moves the coordinates R h to an affine function of the state.

    The edit of LoReFT (arXiv 2404.03592).

    Args:
        rotation: R, (r, d), orthonormal rows.
        weight: W, (r, d).
        bias: b, (r,), in the units of the coordinates R h.

    Raises:
        InputError: Mis-shaped or non-finite tensors, or rows of R that are not orthonormal.
    """

    kind: ClassVar[str] = "low_rank"
    rotation: Tensor
    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        for name, rank in (("rotation", 2), ("weight", 2), ("bias", 1)):
            check_shape(f"low-rank {name}", getattr(self, name), rank)
            object.__setattr__(self, name, own_float32(f"low-rank {name}", getattr(self, name)))
        if self.weight.shape != self.rotation.shape or self.bias.shape != self.rotation.shape[:1]:
            raise InputError(
                f"low-rank rotation {tuple(self.rotation.shape)}, weight {tuple(self.weight.shape)} and bias "
                f"{tuple(self.bias.shape)} do not go together; need (r, d), (r, d) and (r,)"
            )
        gram = self.rotation @ self.rotation.T
        off = float((gram - torch.eye(len(gram), device=gram.device)).abs().max())
        if off > 1e-3:
            raise InputError(f"rows of a low-rank rotation must be orthonormal; their products are off by {off:.2g}")

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.rotation.shape[1]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return self.rotation.shape[0]

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        moved = h @ (self.weight - self.rotation).to(h.dtype).T + self.bias.to(h.dtype)
        return h + moved @ self.rotation.to(h.dtype)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.rotation.to(device), self.weight.to(device), self.bias.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"rotation": self.rotation, "weight": self.weight, "bias": self.bias}
