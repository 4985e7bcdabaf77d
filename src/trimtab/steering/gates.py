"""Gates: how much of an edit each token gets, read from the state before the first edit at the site.

One kind reads the row's prompt instead, at another site, and opens or stays shut for the whole row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_finite, check_shape, own_float32
from trimtab.steering.site import Site


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


SIMILARITIES = ("cosine", "absolute", "tanh")
"""What a `PromptGate` compares, in the order of their numbers in the file format."""


@dataclass(frozen=True, eq=False)
class PromptGate:
    """Opens for rows whose prompt meets a condition: the gate of conditional activation steering (arXiv 2409.05907).

    m is the mean of the output of block `layer` over the prompt's tokens behind the template prefix, c the direction.

    Similarity 0 (`cosine`) is <m, c> / (|m| |c|). The paper's own, cos(m, proj_c m), is the absolute value of that: 1
    (`absolute`). Its code also has cos(m, tanh(proj_c m)), tanh of every entry: 2 (`tanh`).

    Whoever runs the model reads m in the forward of the prompt and holds the answer for the whole row, so that this is
    no function of the state at the edited site: as such it is 1 everywhere.

    Args:
        direction: c, (d,) float32, d the width of the residual stream.
        layer: Block whose output is read.
        threshold: What the similarity is compared with.
        side: 1 opens where it is above the threshold, -1 where it is not.
        similarity: A number from 0 to 2, as above.

    Raises:
        InputError: A direction that is not a finite vector or is zero, or a number outside its range.
    """

    kind: ClassVar[str] = "prompt"
    direction: Tensor
    layer: int
    threshold: float
    side: int = 1
    similarity: int = 0

    def __post_init__(self) -> None:
        check_shape("condition direction", self.direction, 1)
        object.__setattr__(self, "direction", own_float32("condition direction", self.direction))
        if not bool(self.direction.any()):
            raise InputError("the condition direction is zero; give one that tells prompts apart")
        object.__setattr__(self, "threshold", float(self.threshold))
        check_finite("condition threshold", torch.tensor(self.threshold))
        for name, allowed in (("side", (1, -1)), ("similarity", tuple(range(len(SIMILARITIES))))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} of a prompt gate is {getattr(self, name)!r}; allowed: {allowed}")
            object.__setattr__(self, name, int(getattr(self, name)))
        if not isinstance(self.layer, int):
            raise InputError(f"the layer of a prompt gate is {self.layer!r}; it must be a block number")
        _ = self.site

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site(self.layer)

    @property
    def width(self) -> int | None:
        """None: it does not read the state that is edited, whose width may be another."""
        return None

    def similarities(self, means: Tensor) -> Tensor:
        """The similarity of mean states (b, d): (b,); 0 where the state is 0."""
        return similarity(means, self.direction.to(means), self.similarity)

    def meets(self, means: Tensor) -> Tensor:
        """Whether the gate is open for mean states (b, d): (b,) bool."""
        above = self.similarities(means) > self.threshold
        return above if self.side > 0 else ~above

    def __call__(self, h: Tensor) -> Tensor:
        """1 everywhere: (..., d) -> (...). Rows that it shuts out are masked before."""
        return h.new_ones(h.shape[:-1])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.direction.to(device), self.layer, self.threshold, self.side, self.similarity)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the file format stores, by name."""
        return {"direction": self.direction}

    def settings(self) -> dict[str, float]:
        """Numbers that the file format stores, by name."""
        names = ("layer", "threshold", "side", "similarity")
        return {name: getattr(self, name) for name in names}


def similarity(means: Tensor, direction: Tensor, kind: int) -> Tensor:
    """One of `SIMILARITIES`, by its number, of states (..., d) with a direction (d,): (...)."""
    along = means @ direction
    if kind == SIMILARITIES.index("tanh"):
        other = torch.tanh((along / (direction @ direction))[..., None] * direction)
        return torch.nn.functional.cosine_similarity(means, other, dim=-1)
    cosine = along / (means.norm(dim=-1) * direction.norm()).clamp_min(torch.finfo(means.dtype).tiny)
    return cosine.abs() if kind == SIMILARITIES.index("absolute") else cosine


GATES: Mapping[str, type[Always] | type[ProjectionGate] | type[PromptGate]] = {
    gate.kind: gate for gate in (Always, ProjectionGate, PromptGate)
}


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
