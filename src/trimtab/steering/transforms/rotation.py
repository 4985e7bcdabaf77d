"""Rotations in a plane; everything orthogonal to the plane stays as it is, and so does the norm. Shapes: d hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_shape, own_float32
from trimtab.steering.transforms.protocol import Scalable

MAX_SKEW = 1e-4
"""How far the products of a plane's rows may be from those of orthonormal ones."""


@dataclass(frozen=True, eq=False)
class _InPlane(Scalable):
    """What both rotations have.

    Args:
        plane: b1 and b2, orthonormal rows (2, d).
        angle: In radians, ().

    Raises:
        InputError: Mis-shaped or non-finite tensors, or rows that are not orthonormal.
    """

    plane: Tensor
    angle: Tensor

    def __post_init__(self) -> None:
        check_shape("plane", self.plane, 2)
        check_shape("angle", self.angle, 0)
        if self.plane.shape[0] != 2:
            raise InputError(f"a plane has 2 rows, not {self.plane.shape[0]}")
        object.__setattr__(self, "plane", own_float32("plane", self.plane))
        object.__setattr__(self, "angle", own_float32("angle", self.angle))
        skew = float((self.plane @ self.plane.T - torch.eye(2, device=self.plane.device)).abs().max())
        if skew > MAX_SKEW:
            raise InputError(f"the rows of a plane must be orthonormal; their products are off by {skew:.2g}")

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.plane.shape[1]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return 2

    def scaled(self, multiplier: float) -> Self:
        """The same with `multiplier` times the angle."""
        return type(self)(self.plane, self.angle * multiplier)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.plane.to(device), self.angle.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"plane": self.plane, "angle": self.angle}


@dataclass(frozen=True, eq=False)
class RotateTo(_InPlane):
    """T(h) = h - P h + |P h| (cos a b1 + sin a b2), P the projection on the plane.

    Every token's part in the plane gets the same angle a, whatever it was. The rule of Angular Steering (arXiv
    2510.26243). RotateTo(b) after RotateTo(a) is RotateTo(b), and the angle 0 is not the identity.

    Args:
        plane: b1 and b2, orthonormal rows (2, d).
        angle: a in radians, (), from b1 towards b2; the multiplier scales it.

    Raises:
        InputError: Mis-shaped or non-finite tensors, or rows that are not orthonormal.
    """

    kind: ClassVar[str] = "rotate_to"

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        plane = self.plane.to(h.dtype)
        inside = h @ plane.T  # (..., 2)
        ray = torch.stack([torch.cos(self.angle), torch.sin(self.angle)]).to(h.dtype)
        return h + (inside.norm(dim=-1, keepdim=True) * ray - inside) @ plane


@dataclass(frozen=True, eq=False)
class RotateBy(_InPlane):
    """T(h) = R h with R = I - P + cos a P + sin a (b2 b1^T - b1 b2^T): every token's part in the plane turns by a.

    The rule of Selective Steering (arXiv 2601.19375); an orthogonal map, so RotateBy(a) after RotateBy(b) is
    RotateBy(a + b), and the angle 0 is the identity.

    Args:
        plane: b1 and b2, orthonormal rows (2, d).
        angle: a in radians, (), from b1 towards b2; the multiplier scales it.

    Raises:
        InputError: Mis-shaped or non-finite tensors, or rows that are not orthonormal.
    """

    kind: ClassVar[str] = "rotate_by"

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        plane = self.plane.to(h.dtype)
        first, second = (h @ plane.T).unbind(-1)
        cos, sin = torch.cos(self.angle).to(h.dtype), torch.sin(self.angle).to(h.dtype)
        turned = torch.stack([cos * first - sin * second, sin * first + cos * second], dim=-1)
        return h + (turned - torch.stack([first, second], dim=-1)) @ plane
