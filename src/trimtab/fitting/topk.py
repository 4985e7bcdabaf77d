"""The edit of ReFT-r1: a unit direction that is both a probe and what is added, as much as it finds.

    a_t = relu(<h_t, v>)        h' = h + mean of the k largest a_t . v        on the edited tokens

The mean is over the tokens of the whole row: in training, early tokens are edited by what later ones hold.

Letters: b batch, s tokens, d hidden, m sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.fitting.edits import EditKind, Parameters
from trimtab.fitting.items import ELICIT, KEEP
from trimtab.fitting.order import retract

VECTOR = "vector"


def latents(states: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """relu(<h_t, v>) of masked tokens, 0 at the others: (b, s) float32."""
    return torch.relu((states.float() @ parameters[VECTOR].transpose(-1, -2))[..., 0]) * mask


def largest(found: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean of the k largest latents of a row, fewer where it has fewer tokens (b,); and which they are, (b, s) bool."""
    k = min(k, found.shape[1])
    places = found.masked_fill(~mask, -1.0).topk(k, dim=1).indices
    chosen = torch.zeros_like(mask).scatter(1, places, True) & mask
    return (found * chosen).sum(dim=1) / chosen.sum(dim=1).clamp_min(1), chosen


def top_kind(k: int, coefficient: float) -> EditKind:
    """The kind of edit.

    Args:
        k: Tokens whose latents count.
        coefficient: Of the mean of all other latents, a penalty that grows from nothing to this over the run.
    """

    def apply(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
        size, _ = largest(latents(states, parameters, mask), mask, k)
        return (states.float() + (size[:, None] * mask)[..., None] * parameters[VECTOR]).to(states.dtype)

    def penalty(states: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
        found = latents(states, parameters, mask)
        rest = mask & ~largest(found, mask, k)[1]
        return coefficient * (found * rest).sum(dim=1) / rest.sum(dim=1).clamp_min(1)

    def tangent(parameters: Parameters, gradients: Parameters) -> dict[str, Tensor]:
        unit = torch.nn.functional.normalize(parameters[VECTOR], dim=-1)
        gradient = gradients[VECTOR]
        return {VECTOR: gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit}

    return EditKind(
        start=lambda rows: {VECTOR: rows.clone()},
        apply=apply,
        retracted=lambda now: {VECTOR: torch.stack([retract(rows) for rows in now[VECTOR]])},
        ways=(ELICIT, KEEP),
        reads_sources=False,
        tangent=tangent,
        penalty=penalty if coefficient > 0 else None,
        reading=lambda states, parameters, mask: largest(latents(states, parameters, mask), mask, k)[0],
    )
