"""The weights by which each attention head writes into the residual stream.

Shapes: n query heads, d hidden, k width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.models.families import hook_point
from trimtab.models.layout import Layout
from trimtab.steering import Site


@torch.no_grad()
def head_weights(layout: Layout, layer: int) -> Tensor:
    """What each query head's part of the output projection is: (n, d, k) float32 on the CPU.

    What the attention hands on is the sum over heads of `weights[head] @ part` of the head's part (k,) of `attn_in`,
    plus the projection's bias, which belongs to no head. Heads that share keys and values (grouped queries) have
    each their own part here.

    Args:
        layout: The model's parts.
        layer: 0-based block.

    Raises:
        InputError: The block has no such projection, or its weights are no plain matrix: quantised, or wrapped by an
            adapter.
    """
    module = hook_point(layout.blocks[layer], Site(layer, "attn_in"), layout.model_type).module
    weight = _matrix(module)
    if weight is None:
        raise InputError(
            f"the output projection of the attention of block {layer} is a {type(module).__name__} that does not "
            "multiply by a plain matrix; load the model without quantisation, and merge adapters into it"
        )
    d, width = weight.shape
    size = layout.head_size
    if d != layout.hidden_size or not size or width % size:
        raise InputError(
            f"the output projection of block {layer} maps {width} to {d}, which heads of width {size} and a hidden "
            f"size of {layout.hidden_size} do not explain; its heads cannot be told apart"
        )
    return weight.detach().float().cpu().reshape(d, width // size, size).permute(1, 0, 2).contiguous()


def _matrix(module: nn.Module) -> Tensor | None:
    """W (out, in) if a module gives W x + b, seen on two inputs; GPT-2's stores W the other way round."""
    stored = dict(module.named_parameters(recurse=False)).get("weight")
    if stored is None or stored.dim() != 2 or not stored.is_floating_point():
        return None
    loose = stored.dtype not in (torch.float32, torch.float64)
    for weight in (stored, stored.T):
        x = torch.randn(1, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
        try:
            moved = (module(x) - module(torch.zeros_like(x))).float()
        except (RuntimeError, ValueError):
            continue
        wanted = x.float() @ weight.float().T
        if torch.allclose(moved, wanted, rtol=0, atol=(3e-2 if loose else 1e-4) * float(wanted.abs().max())):
            return weight
    return None
