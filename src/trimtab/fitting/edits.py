"""The edits that are trained: what their parameters are, what they do to a state, and how they keep their shape.

Every edit is an `EditKind`; the trainer knows nothing else of it. Letters: b batch, s tokens, d hidden, r rank,
m sites, k concepts that are trained together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.fitting.order import retract
from trimtab.steering.factors import DIRECTIONS

Parameters = Mapping[str, Tensor]
"""By name; (m, ...) of one concept, (...) of one site, or (b, ...) with one concept's a row."""


@dataclass(frozen=True)
class EditKind:
    """One kind of trained edit.

    Attributes:
        start: Orthonormal rows (m, r, d) -> parameters (m, ...), float32.
        apply: (states (b, s, d), source states (b, d), parameters of a site, mask (b, s)) -> edited states.
        retracted: Parameters (m, ...) after an optimiser's step -> the nearest ones of the right shape.
        ways: The directions that are trained: one item a pair each.
    """

    start: Callable[[Tensor], dict[str, Tensor]]
    apply: Callable[[Tensor, Tensor, Parameters, Tensor], Tensor]
    retracted: Callable[[Parameters], dict[str, Tensor]]
    ways: tuple[str, ...] = DIRECTIONS


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
    ways=("elicit",),
)
"""R, orthonormal rows, and the affine map W h + b that the coordinates R h are set to; begins as the identity."""
