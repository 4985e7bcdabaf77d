"""What every transform offers.

Shapes: d hidden, r rank. Every tensor of a transform is float32. What the multiplier of a vector scales is not the
transform's business (see `trimtab.steering.vector`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor


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


class Scalable(ABC):
    """A transform that a multiplier changes from within: an angle, a length, a value.

    Others are scaled from without, by the strength s in h' = h + s g(h) (T(h) - h).
    """

    @abstractmethod
    def scaled(self, multiplier: float) -> Self:
        """The transform at another multiplier; 1 gives itself, 0 the least that it can do."""
