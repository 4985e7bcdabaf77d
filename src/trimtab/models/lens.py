"""What a vector means to the model's own head: the tokens it promotes and demotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.models.compat import edit_to_read
from trimtab.steering import Clamp, Edit, SteeringVector, probe_directions

if TYPE_CHECKING:
    from trimtab.models.model import Model


_STREAM = ("resid_pre", "resid_post", "attn_out", "mlp_out")
"""Kinds of site whose state is the residual stream or is added to it."""


@torch.no_grad()
def promoted_tokens(
    model: Model, vector: SteeringVector, k: int = 10, *, edit: int = 0
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Tokens whose logit the eliciting edit raises and lowers most when read straight through final norm and head.

    The displacement of a clamp is the one from the negative to the positive class, W^T (W W^T)^-1 (f_pos - f_neg); of
    other transforms their unit direction. It is read as norm(c u) - norm(0), which is exact for RMS and layer norms up
    to a positive factor, so scores compare tokens of one vector, not vectors. Blocks above the site are left out: a
    first look, no proof.

    Returns:
        The k most promoted and the k most demoted tokens, each with its score, strongest first.

    Raises:
        InputError: k below 1, a vector for another width or depth, or an edit that is absent or has no direction in
            the residual stream.
    """
    if k < 1:
        raise InputError(f"k={k} tokens asked for; give at least 1")
    chosen = edit_to_read(model, vector, edit)
    site = chosen.intervention.site
    if site.kind not in _STREAM:
        raise InputError(
            f"the edit at {site} is not in the residual stream; only edits at {', '.join(_STREAM)} promote tokens"
        )
    u = _displacement(chosen).to(model.device)
    scores = _read(model, u * (model.hidden_size**0.5) * 100.0)
    k = min(k, scores.shape[0])
    up, down = scores.topk(k), scores.topk(k, largest=False)
    return _named(model, up.indices, up.values), _named(model, down.indices, down.values)


def _displacement(edit: Edit) -> Tensor:
    transform = edit.intervention.transform
    if isinstance(transform, Clamp) and edit.factors is not None:
        gap = torch.tensor(edit.factors.positive.mean) - torch.tensor(edit.factors.negative.mean)
        moved = (gap @ transform.gram_inverse) @ transform.directions
    else:
        moved = probe_directions(transform)[0]
    return torch.nn.functional.normalize(moved, dim=0)


def _read(model: Model, state: Tensor) -> Tensor:
    """Scores (v,) of a state (d,) against the zero state, through the final norm and the head."""
    both = torch.stack([state, torch.zeros_like(state)]).to(model.dtype)
    norm = model.layout.norm
    logits = model.layout.head(both if norm is None else norm(both)).float()
    return logits[0] - logits[1]


def _named(model: Model, ids: Tensor, scores: Tensor) -> list[tuple[str, float]]:
    names = [str(model.tokenizer.decode([int(i)])) for i in ids]
    return list(zip(names, scores.tolist(), strict=True))
