"""Transforms of the coordinates along some directions. Shapes: d hidden, r rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_gram, check_shape, own_float32


@dataclass(frozen=True, eq=False)
class Clamp:
    """T(h) = h + W^T (W W^T)^-1 (a - W h): sets the coordinates W h to a and touches nothing orthogonal to W.

    For one unit direction this is h + (a - <w, h>) w, the clamp of CDAS (arXiv 2602.05234). Several clamps at one site
    are solved together by `trimtab.steering.intervention.edit_states`.

    Args:
        directions: W, (r, d); a (d,) vector is taken as rank 1.
        values: a, (r,), in the units of the coordinates <w, h>.

    Raises:
        InputError: Mis-shaped or non-finite tensors, zero or nearly parallel directions.
    """

    kind: ClassVar[str] = "clamp"
    directions: Tensor
    values: Tensor
    gram_inverse: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_shape("clamp directions", self.directions, 1, 2)
        directions = own_float32("clamp directions", torch.atleast_2d(self.directions))
        values = own_float32("clamp values", torch.atleast_1d(self.values))
        if values.shape != directions.shape[:1]:
            raise InputError(
                f"clamp has {directions.shape[0]} directions but values of shape {tuple(values.shape)}; one value each"
            )
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "gram_inverse", check_gram("clamp", directions).to(directions))

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.directions.shape[1]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return self.directions.shape[0]

    def coordinates(self, h: Tensor) -> Tensor:
        """W h: (..., d) -> (..., r)."""
        return h @ self.directions.to(h.dtype).T

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        missing = self.values.to(h.dtype) - self.coordinates(h)
        return h + (missing @ self.gram_inverse.to(h.dtype)) @ self.directions.to(h.dtype)

    def with_values(self, values: Tensor) -> Clamp:
        """The same directions clamped to other values (r,)."""
        return Clamp(self.directions, values.to(self.directions.device))

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.directions.to(device), self.values.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"directions": self.directions, "values": self.values}


@dataclass(frozen=True, eq=False)
class Ablate:
    """T(h) = h - W^T (W W^T)^-1 W h: removes the span of W from the state.

    Args:
        directions: W, (r, d); a (d,) vector is taken as rank 1. The rows need not be orthogonal nor of length 1.

    Raises:
        InputError: Mis-shaped or non-finite directions, or directions that are zero or nearly parallel.
    """

    kind: ClassVar[str] = "ablate"
    directions: Tensor
    gram_inverse: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_shape("ablate directions", self.directions, 1, 2)
        directions = own_float32("ablate directions", torch.atleast_2d(self.directions))
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "gram_inverse", check_gram("ablate", directions).to(directions))

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.directions.shape[1]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return self.directions.shape[0]

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        w = self.directions.to(h.dtype)
        return h - ((h @ w.T) @ self.gram_inverse.to(h.dtype)) @ w

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.directions.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"directions": self.directions}


@dataclass(frozen=True, eq=False)
class NullOut:
    """T(h) = h - relu(<v, h> + b) / ||v||^2 * v: removes the positive part only.

    The suppression of RePS (arXiv 2505.20809), as read in the AxBench fork clarenceluo78/axbench, commit 027dcfb.
    States with <v, h> + b <= 0 stay as they are; with b = 0 the coordinate of all others becomes 0.

    Args:
        vector: v, (d,), of any length but zero.
        bias: b, (), in the units of <v, h>; 0 by default.

    Raises:
        InputError: A mis-shaped, non-finite or zero vector, or a bias that is not one finite number.
    """

    kind: ClassVar[str] = "null_out"
    vector: Tensor
    bias: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __post_init__(self) -> None:
        check_shape("null-out vector", self.vector, 1)
        check_shape("null-out bias", self.bias, 0)
        object.__setattr__(self, "vector", own_float32("null-out vector", self.vector))
        object.__setattr__(self, "bias", own_float32("null-out bias", self.bias))
        check_gram("null-out", self.vector[None])

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
        v = self.vector.to(h.dtype)
        excess = torch.relu(h @ v + self.bias.to(h.dtype)) / (v @ v)
        return h - excess[..., None] * v

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.vector.to(device), self.bias.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        return {"vector": self.vector, "bias": self.bias}
