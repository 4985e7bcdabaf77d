"""What the families call the parts of a block. Only sites inside a block need this; blocks are found by structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from trimtab.errors import InputError
from trimtab.steering import Site


@dataclass(frozen=True)
class BlockParts:
    """Paths of submodules inside one block.

    Args:
        attention: The attention branch; its output is `attn_out`.
        attention_projection: Its last linear map; its input is `attn_in`, heads side by side.
        mlp: The MLP branch; its output is `mlp_out`.
        mlp_projection: Its last linear map; its input is `mlp_act`.
        norms: The norms at the entrance of the branches, in order of execution; their outputs are `norm_out`.
    """

    attention: str = "self_attn"
    attention_projection: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_projection: str = "mlp.down_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")


FAMILIES: Mapping[str, BlockParts] = {
    "llama": BlockParts(),
    "gemma2": BlockParts(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "gpt2": BlockParts("attn", "attn.c_proj", "mlp", "mlp.c_proj", ("ln_1", "ln_2")),
    "falcon": BlockParts("self_attention", "self_attention.dense", "mlp", "mlp.dense_4h_to_h", ("input_layernorm",)),
    "gemma3_text": BlockParts(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "gpt_neox": BlockParts("attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"),
    "olmo2": BlockParts(norms=()),
}
"""Families whose parts are known, by transformers' `model_type`."""


@dataclass(frozen=True)
class HookPoint:
    """A module and the side of it on which a site lies: `input` (first argument) or `output`."""

    module: nn.Module
    side: str


def hook_point(block: nn.Module, site: Site, model_type: str) -> HookPoint:
    """The module and side of a site of `block`.

    A family that is not in the table is tried with Llama's names, which most families share.

    Raises:
        InputError: The block has no such part.
    """
    if site.kind == "resid_pre":
        return HookPoint(block, "input")
    if site.kind == "resid_post":
        return HookPoint(block, "output")
    parts = FAMILIES.get(model_type, BlockParts())
    if site.kind == "norm_out":
        path, side = _norm(block, parts, site, model_type), "output"
    else:
        path, side = {
            "attn_in": (parts.attention_projection, "input"),
            "attn_out": (parts.attention, "output"),
            "mlp_act": (parts.mlp_projection, "input"),
            "mlp_out": (parts.mlp, "output"),
        }[site.kind]
    try:
        return HookPoint(block.get_submodule(path), side)
    except AttributeError as error:
        raise InputError(
            f"site {site}: a {model_type!r} block has no {path!r}; sites inside a block are known for "
            f"{', '.join(FAMILIES)}: use resid_pre or resid_post, or add the family in trimtab/models/families.py"
        ) from error


def _norm(block: nn.Module, parts: BlockParts, site: Site, model_type: str) -> str:
    """Path of the norm that a `norm_out` site names.

    Llama's names mean other norms in a block that has further ones (behind its branches, as in OLMo 2).
    """
    further = [name for name, _ in block.named_children() if "norm" in name and name not in parts.norms]
    if model_type not in FAMILIES and further:
        raise InputError(
            f"site {site}: a {model_type!r} block has norms of another kind ({', '.join(further)}); "
            "use resid_pre or resid_post, or add the family in trimtab/models/families.py"
        )
    if site.part >= len(parts.norms):
        raise InputError(
            f"site {site} does not exist: a {model_type!r} block has {len(parts.norms)} norms at the entrance of its "
            "branches, counted from 0"
        )
    return parts.norms[site.part]


def head_slice(site: Site, head_size: int | None, width: int) -> slice:
    """Where the head of an `attn_in` site lies in a state of the given width.

    Raises:
        InputError: No such head.
    """
    assert site.head is not None
    if not head_size or head_size * (site.head + 1) > width:
        heads = f"{width // head_size} heads, counted from 0" if head_size else "heads of unknown width"
        raise InputError(f"site {site} does not exist: the model has {heads}")
    return slice(head_size * site.head, head_size * (site.head + 1))
