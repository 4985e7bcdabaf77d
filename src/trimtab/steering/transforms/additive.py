"""Transforms that add a vector. Shapes: d hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.steering.checks import check_shape, own_float32
from trimtab.steering.transforms.protocol import Scalable


@dataclass(frozen=True, eq=False)
class Add:
    """T(h) = h + v.

    Args:
        vector: v, (d,), in the units of the residual stream.

    Raises:
        InputError: A vector that is not one-dimensional, is empty, or holds a number that is not finite.
    """

    kind: ClassVar[str] = "add"
    vector: Tensor

    def __post_init__(self) -> None:
        check_shape("add vector", self.vector, 1)
        object.__setattr__(self, "vector", own_float32("add vector", self.vector))

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.vector.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return 1

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        return h + self.vector.to(h.dtype)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.vector.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"vector": self.vector}


@dataclass(frozen=True, eq=False)
class AddKeepNorm(Scalable):
    """T(h) = (h + v) |h| / |h + v|: adds a vector and keeps each token's norm.

    The edit of GrAInS (arXiv 2507.18043). Where h + v is 0 the state stays as it is.

    Args:
        vector: v, (d,), in the units of the residual stream; the multiplier scales it.

    Raises:
        InputError: A vector that is not one-dimensional, is empty, or holds a number that is not finite.
    """

    kind: ClassVar[str] = "add_keep_norm"
    vector: Tensor

    def __post_init__(self) -> None:
        check_shape("add vector", self.vector, 1)
        object.__setattr__(self, "vector", own_float32("add vector", self.vector))

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.vector.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return 1

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        moved = h + self.vector.to(h.dtype)
        norm = moved.norm(dim=-1, keepdim=True)
        scale = h.norm(dim=-1, keepdim=True) / torch.where(norm > 0, norm, torch.ones_like(norm))
        return torch.where(norm > 0, moved * scale, h)

    def scaled(self, multiplier: float) -> Self:
        """The same with `multiplier` times the vector."""
        return type(self)(self.vector * multiplier)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.vector.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"vector": self.vector}
