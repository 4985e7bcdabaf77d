"""Gates: how much of an edit each token gets, read from the state before the first edit at the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_finite, check_shape, own_float32


class Gate(Protocol):
    """A function (..., d) -> (...) with values in [0, 1]."""

    kind: ClassVar[str]

    @property
    def width(self) -> int | None:
        """Width d of the states it reads, or None for any."""
        ...

    def __call__(self, h: Tensor) -> Tensor:
        """g(h): (..., d) -> (...)."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the file format stores, by name."""
        ...

    def settings(self) -> dict[str, float]:
        """Numbers that the file format stores, by name."""
        ...


@dataclass(frozen=True)
class Always:
    """The gate that is open everywhere: g(h) = 1."""

    kind: ClassVar[str] = "always"

    @property
    def width(self) -> int | None:
        """None: any state will do."""
        return None

    def __call__(self, h: Tensor) -> Tensor:
        """g(h): (..., d) -> (...)."""
        return h.new_ones(h.shape[:-1])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the file format stores, by name."""
        return {}

    def settings(self) -> dict[str, float]:
        """Numbers that the file format stores, by name."""
        return {}


@dataclass(frozen=True, eq=False)
class ProjectionGate:
    """Opens where the state's coordinate along a direction passes a threshold.

    g(h) = [<v, h> > threshold] when `sharpness` is 0 (a hard switch), else sigmoid(sharpness * (<v, h> - threshold)).

    Args:
        direction: (d,) float32.
        threshold: In the units of the coordinate <v, h>.
        sharpness: Slope of the sigmoid per unit of the coordinate; negative opens below the threshold; 0 = hard.

    Raises:
        InputError: A direction that is not a finite vector, or a threshold or sharpness that is not finite.
    """

    kind: ClassVar[str] = "projection"
    direction: Tensor
    threshold: float = 0.0
    sharpness: float = 0.0

    def __post_init__(self) -> None:
        check_shape("gate direction", self.direction, 1)
        object.__setattr__(self, "direction", own_float32("gate direction", self.direction))
        for name in ("threshold", "sharpness"):
            object.__setattr__(self, name, float(getattr(self, name)))
        check_finite("gate threshold and sharpness", torch.tensor([self.threshold, self.sharpness]))

    @property
    def width(self) -> int | None:
        """Width d of the states that the gate reads."""
        return self.direction.shape[0]

    def __call__(self, h: Tensor) -> Tensor:
        """g(h): (..., d) -> (...)."""
        coordinate = h @ self.direction.to(h.dtype)
        if self.sharpness == 0.0:
            return (coordinate > self.threshold).to(h.dtype)
        return torch.sigmoid(self.sharpness * (coordinate - self.threshold))

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.direction.to(device), self.threshold, self.sharpness)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the file format stores, by name."""
        return {"direction": self.direction}

    def settings(self) -> dict[str, float]:
        """Numbers that the file format stores, by name."""
        return {"threshold": self.threshold, "sharpness": self.sharpness}


GATES: Mapping[str, type[Always] | type[ProjectionGate]] = {gate.kind: gate for gate in (Always, ProjectionGate)}


def build_gate(kind: str, tensors: Mapping[str, Tensor], settings: Mapping[str, float]) -> Gate:
    """The gate of the given kind from its stored parts.

    Raises:
        InputError: Unknown kind, or parts that are missing or superfluous.
    """
    if kind not in GATES:
        raise InputError(f"unknown gate {kind!r}; this version knows {', '.join(GATES)}")
    cls = GATES[kind]
    parts = {**tensors, **settings}
    wanted = {spec.name for spec in fields(cls)}
    if set(parts) != wanted:
        raise InputError(f"gate {kind!r} needs {sorted(wanted)} but the file holds {sorted(parts)}")
    return cls(**parts)
