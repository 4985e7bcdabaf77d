"""The edits that are trained: what their parameters are, what they do to a state, and how they keep their shape.

Every edit is an `EditKind`; the trainer knows nothing else of it. Letters: b batch, s tokens, d hidden, r rank,
m sites, k concepts that are trained together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from trimtab.fitting.draws import FactorDraw
from trimtab.fitting.items import ELICIT, INTERCHANGES, Way
from trimtab.fitting.order import retract

Parameters = Mapping[str, Tensor]
"""By name; (m, ...) of one concept, (...) of one site, or (b, ...) with one concept's a row. Where factors are drawn,
`factor` (b,) is one of them."""

FACTOR = "factor"
"""The name under which an edit finds a row's drawn factor."""
SIZE = "size"
"""The name under which an edit finds the typical size of an entry of the states that it changes."""


@dataclass(frozen=True)
class EditKind:
    """One kind of trained edit.

    Attributes:
        start: Rows (m, r, d) -> parameters (m, ...), float32; the first of them are the directions (m, r, d).
        apply: (states (b, s, d), source states (b, d), parameters of a site, mask (b, s)) -> edited states.
        retracted: Parameters (m, ...) after an optimiser's step -> the nearest ones of the right shape.
        ways: What is trained: one item a pair each.
        reads_sources: Whether it looks at source states; if no objective needs the source either, none is run.
        is_orthonormal: Whether its first parameter has orthonormal rows; a given start is then brought there, else
            taken as it is.
        draw: How the factors of a step are drawn; None = there are none.
        rates: Learning rates of parameters, as multiples of the settings' one; 1 by default.
        unclipped: Parameters whose gradients are not clipped.
        constants: Parameters that no step moves. One named `size` (m, 1, 1) is filled in before the first step: the
            size of an entry of the plain states that are edited at the lowest site, see `typical_size`.
        tangent: (parameters, gradients) -> gradients along which the parameters keep their shape.
        penalty: (states (b, s, d), parameters of a site, mask (b, s)) -> (b,) what is added to each row's loss, times
            the share of the run that is over; at the lowest site.
        reading: (states (b, s, d), parameters of a site, mask (b, s)) -> (b,) what is read off the plain states of the
            lowest site after training; a fit keeps its mean a way.
    """

    start: Callable[[Tensor], dict[str, Tensor]]
    apply: Callable[[Tensor, Tensor, Parameters, Tensor], Tensor]
    retracted: Callable[[Parameters], dict[str, Tensor]] = dict
    ways: tuple[Way, ...] = INTERCHANGES
    reads_sources: bool = True
    is_orthonormal: bool = True
    draw: FactorDraw | None = None
    rates: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    unclipped: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    tangent: Callable[[Parameters, Parameters], dict[str, Tensor]] | None = None
    penalty: Callable[[Tensor, Parameters, Tensor], Tensor] | None = None
    reading: Callable[[Tensor, Parameters, Tensor], Tensor] | None = None


def interchange(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """Give h' = h + W^T (W h_src - W h) on masked tokens, one source state for all tokens of a row; differentiable.

    The trainable edit of CDAS (arXiv 2602.05234) and DAS (arXiv 2303.02536).

    Args:
        states: h, (b, s, d), any dtype; computed in float32, returned in this dtype.
        sources: h_src, (b, d) float32.
        parameters: `directions`, W: orthonormal rows (r, d) float32, or (b, r, d), other ones for every row.
        mask: (b, s) bool.
    """
    directions = parameters["directions"]
    x, columns = states.float(), directions.transpose(-1, -2)
    missing = sources[:, None] @ columns - x @ columns  # (b, s, r)
    return (x + (missing * mask[..., None]) @ directions).to(states.dtype)


def low_rank(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """Give h' = h + R^T (W h + b - R h) on masked tokens; differentiable.

    The edit of LoReFT (arXiv 2404.03592); sources are not looked at.

    Args:
        states: h, (b, s, d), any dtype; computed in float32, returned in this dtype.
        sources: (b, d).
        parameters: `rotation`, R: orthonormal rows (r, d); `weight`, W: (r, d); `bias`, b: (r,); all float32, or with
            a leading b.
        mask: (b, s) bool.
    """
    rotation, weight, bias = (parameters[name] for name in ("rotation", "weight", "bias"))
    x = states.float()
    moved = x @ (weight - rotation).transpose(-1, -2) + (bias if bias.dim() == 1 else bias[:, None])  # (b, s, r)
    return (x + (moved * mask[..., None]) @ rotation).to(states.dtype)


def _retracted(rows: Tensor) -> Tensor:
    return torch.stack([retract(of_site) for of_site in rows])


INTERCHANGE = EditKind(
    start=lambda rows: {"directions": rows.clone()},
    apply=interchange,
    retracted=lambda now: {"directions": _retracted(now["directions"])},
)
"""W, orthonormal rows: the coordinates W h are exchanged for the source's."""

LOW_RANK = EditKind(
    start=lambda rows: {"rotation": rows.clone(), "weight": rows.clone(), "bias": torch.zeros(rows.shape[:2])},
    apply=low_rank,
    retracted=lambda now: {**now, "rotation": _retracted(now["rotation"])},
    ways=(ELICIT,),
    reads_sources=False,
)
"""R, orthonormal rows, and the affine map W h + b that the coordinates R h are set to; begins as the identity."""


def tangential(kind: EditKind) -> EditKind:
    """The kind of edit with steps of its orthonormal rows that keep them so to first order.

    With G the gradient of the rows W (r, d): G - (G W^T + W G^T) W / 2, the projection onto the tangent space of the
    Stiefel manifold; of one row, g - <g, w> w.
    """

    def tangent(parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        name = next(iter(parameters))
        rows, gradient = parameters[name], gradients[name]
        along = gradient @ rows.transpose(-1, -2)
        return {**gradients, name: gradient - (along + along.transpose(-1, -2)) @ rows / 2}

    return replace(kind, tangent=tangent)
