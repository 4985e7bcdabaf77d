"""The weights by which each attention head writes into the residual stream.

Shapes: n query heads, d hidden, k width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

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
    site = Site(layer, "attn_in")
    module = hook_point(layout.blocks[layer], site, layout.model_type).module
    if type(module) is nn.Linear:
        weight = module.weight
    elif type(module) is Conv1D:  # GPT-2 stores it the other way round
        weight = module.weight.T
    else:
        raise InputError(
            f"the output projection of the attention of block {layer} is a {type(module).__name__}, whose weights are "
            "no plain matrix; load the model without quantisation, and merge adapters into it"
        )
    if not weight.is_floating_point():
        raise InputError(
            f"the output projection of the attention of block {layer} holds {weight.dtype} weights; load the model "
            "without quantisation"
        )
    d, width = weight.shape
    size = layout.head_size
    if d != layout.hidden_size or not size or width % size:
        raise InputError(
            f"the output projection of block {layer} maps {width} to {d}, which heads of width {size} and a hidden "
            f"size of {layout.hidden_size} do not explain; its heads cannot be told apart"
        )
    return weight.detach().float().cpu().reshape(d, width // size, size).permute(1, 0, 2).contiguous()
