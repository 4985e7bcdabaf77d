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
        flat_mlp: Whether the MLP sees the tokens of all rows in one line; rows cannot be told apart there.
    """

    attention: str = "self_attn"
    attention_projection: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_projection: str = "mlp.down_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    flat_mlp: bool = False


FAMILIES: Mapping[str, BlockParts] = {
    "llama": BlockParts(),
    "gemma2": BlockParts(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "gpt2": BlockParts("attn", "attn.c_proj", "mlp", "mlp.c_proj", ("ln_1", "ln_2")),
    "bitnet": BlockParts(),  # `attn_in` and `mlp_act` come after the norms inside its branches, as its projections do
    "falcon": BlockParts("self_attention", "self_attention.dense", "mlp", "mlp.dense_4h_to_h", ("input_layernorm",)),
    "gemma3_text": BlockParts(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "gpt_neox": BlockParts("attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"),
    "gpt_oss": BlockParts(),
    "mistral": BlockParts(),
    "mixtral": BlockParts(),
    "olmo2": BlockParts(norms=()),
    "opt": BlockParts("self_attn", "self_attn.out_proj", "fc2", "fc2", ("self_attn_layer_norm",), flat_mlp=True),
    "phi3": BlockParts(),
    "qwen2": BlockParts(),
    "qwen3": BlockParts(),
    "qwen3_moe": BlockParts(),
}
"""Families whose parts are known, by transformers' `model_type`.

A part that a block lacks is refused: blocks of experts have no one last projection of an MLP. The norm before OPT's MLP
is left out of its norms because it is as flat as the MLP.
"""


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
    if parts.flat_mlp and site.kind in ("mlp_act", "mlp_out"):
        raise InputError(
            f"site {site}: the MLP of a {model_type!r} block sees the tokens of all rows in one line, and rows cannot "
            "be told apart there; use resid_pre or resid_post"
        )
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
        reason = f"site {site}: this {model_type!r} block has no {path!r}"
        if f"{parts.mlp}.experts" in dict(block.named_modules()):
            reason += ", its experts have each their own"
        if model_type in FAMILIES:
            raise InputError(f"{reason}; use resid_pre or resid_post, or another site inside the block") from error
        raise InputError(
            f"{reason}; sites inside a block are known for {', '.join(FAMILIES)}: "
            "use resid_pre or resid_post, or add the family in trimtab/models/families.py"
        ) from error


def _norm(block: nn.Module, parts: BlockParts, site: Site, model_type: str) -> str:
    """Path of the norm that a `norm_out` site names.

    Llama's names mean other norms in a block that has further ones (behind its branches, as in OLMo 2). Where OPT's
    stand is a setting, and in the model of 350 million weights they stand behind the branches.
    """
    further = [name for name, _ in block.named_children() if "norm" in name and name not in parts.norms]
    if model_type not in FAMILIES and further:
        raise InputError(
            f"site {site}: a {model_type!r} block has norms of another kind ({', '.join(further)}); "
            "use resid_pre or resid_post, or add the family in trimtab/models/families.py"
        )
    if getattr(block, "do_layer_norm_before", True) is False:
        raise InputError(
            f"site {site} does not exist: the norms of this {model_type!r} block stand behind its branches, not at "
            "their entrance; use resid_pre or resid_post"
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
