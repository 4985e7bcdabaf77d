"""Transforms T(h): pure functions of the hidden state, (..., d) -> (..., d), computed in at least float32.

Shapes: d hidden, r rank. Every tensor of a transform is float32. What the multiplier of a vector scales is not the
transform's business (see `trimtab.steering.vector`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_gram, check_shape, own_float32


class Transform(Protocol):
    """What every transform offers; `kind` is its name in the file format."""

    kind: ClassVar[str]

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        ...

    @property
    def rank(self) -> int:
        """Number of directions r."""
        ...

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        ...


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


def probe_directions(transform: Transform) -> Tensor:
    """The directions (r, d) along which a transform is read as a probe: W as learned, or the unit vector that is added.

    Raises:
        InputError: The transform has no direction (an affine map).
    """
    if isinstance(transform, (Clamp, Ablate)):
        return transform.directions
    if isinstance(transform, LowRank):
        return transform.rotation
    if isinstance(transform, (Add, NullOut)):
        return torch.nn.functional.normalize(transform.vector[None], dim=-1)
    raise InputError(
        f"a {transform.kind!r} transform has no direction to read; use a clamp, ablation, addition or null-out"
    )


TRANSFORMS: Mapping[str, type[Add] | type[Clamp] | type[Ablate] | type[NullOut] | type[Affine] | type[LowRank]] = {
    transform.kind: transform for transform in (Add, Clamp, Ablate, NullOut, Affine, LowRank)
}


def build_transform(kind: str, tensors: Mapping[str, Tensor]) -> Transform:
    """The transform of the given kind from its stored tensors.

    Raises:
        InputError: Unknown kind, or tensors that are missing, superfluous or mis-shaped.
    """
    if kind not in TRANSFORMS:
        raise InputError(f"unknown transform {kind!r}; this version knows {', '.join(TRANSFORMS)}")
    cls = TRANSFORMS[kind]
    wanted = {spec.name for spec in fields(cls) if spec.init}
    if set(tensors) != wanted:
        raise InputError(f"transform {kind!r} needs tensors {sorted(wanted)} but the file holds {sorted(tensors)}")
    return cls(**tensors)
