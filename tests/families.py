"""The families as the tests know them, and plain tools to look into a model. Nothing here comes from `trimtab.models`
but the tiny models: names of modules and formulas are written out a second time, so that they can be an oracle.

A new family is one entry in `FAMILIES`; a new transform one in `TRANSFORMS`.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.utils import chat_template_utils

from trimtab.models.tiny import TinyModel, tiny_model
from trimtab.steering import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Intervention,
    LowRank,
    NullOut,
    Positions,
    Site,
    Steering,
    Transform,
)

WIDTH, DEPTH, HEAD, HEADS = 64, 4, 16, 4
"""Hidden size, blocks, width of a head and heads of every tiny model."""

ATTENTION_MLP_NORMS = {
    "attn_in": ("self_attn.o_proj", "in"),
    "attn_out": ("self_attn", "out"),
    "mlp_act": ("mlp.down_proj", "in"),
    "mlp_out": ("mlp", "out"),
    "norm_out": ("input_layernorm", "out"),
    "norm_out.1": ("post_attention_layernorm", "out"),
}
GEMMA = ATTENTION_MLP_NORMS | {"norm_out.1": ("pre_feedforward_layernorm", "out")}
EXPERTS = {kind: part for kind, part in ATTENTION_MLP_NORMS.items() if kind != "mlp_act"}


@dataclass(frozen=True)
class Family:
    """What the tests need to know of a family.

    Attributes:
        blocks: Path of the list of blocks.
        parts: Site inside a block -> path of a module in the block, and the side of it.
        apart: Whether a row's numbers do not depend on its neighbours to the last bit. They do with experts, which
            multiply the tokens of all rows that chose them at once.
    """

    blocks: str = "model.layers"
    parts: Mapping[str, tuple[str, str]] = field(default_factory=lambda: ATTENTION_MLP_NORMS)
    apart: bool = True


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "gemma2": Family(parts=GEMMA),
    "gpt2": Family(
        "transformer.h",
        {
            "attn_in": ("attn.c_proj", "in"),
            "attn_out": ("attn", "out"),
            "mlp_act": ("mlp.c_proj", "in"),
            "mlp_out": ("mlp", "out"),
            "norm_out": ("ln_1", "out"),
            "norm_out.1": ("ln_2", "out"),
        },
    ),
    "bitnet": Family(),
    "falcon": Family(
        "transformer.h",
        {
            "attn_in": ("self_attention.dense", "in"),
            "attn_out": ("self_attention", "out"),
            "mlp_act": ("mlp.dense_4h_to_h", "in"),
            "mlp_out": ("mlp", "out"),
            "norm_out": ("input_layernorm", "out"),
        },
    ),
    "gemma3_text": Family(parts=GEMMA),
    "gpt_neox": Family(
        "gpt_neox.layers",
        ATTENTION_MLP_NORMS
        | {
            "attn_in": ("attention.dense", "in"),
            "attn_out": ("attention", "out"),
            "mlp_act": ("mlp.dense_4h_to_h", "in"),
        },
    ),
    "gpt_oss": Family(parts=EXPERTS, apart=False),
    "mistral": Family(),
    "mixtral": Family(parts=EXPERTS, apart=False),
    "olmo2": Family(parts={kind: part for kind, part in ATTENTION_MLP_NORMS.items() if "norm" not in kind}),
    "opt": Family(
        "model.decoder.layers",
        {
            "attn_in": ("self_attn.out_proj", "in"),
            "attn_out": ("self_attn", "out"),
            "norm_out": ("self_attn_layer_norm", "out"),
        },
    ),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(parts=EXPERTS, apart=False),
}

MAIN = ("llama", "gemma2", "gpt2")
"""The families of the longer tests: Llama's shapes, windows with soft-caps, learned positions with fused weights."""


@functools.cache
def tiny(name: str) -> TinyModel:
    """The shared tiny model of a family; whoever changes it puts it back."""
    return tiny_model(name)


_SPECIAL = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15}
_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "intermediate_size": 128, "num_attention_heads": HEADS}
_VISION = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}

FURTHER: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bloom": ("transformer.h", _SPECIAL | {"hidden_size": WIDTH, "n_layer": DEPTH, "n_head": HEADS}),
    "cohere": ("model.layers", _SPECIAL | _SIZES),
    "granite": ("model.layers", _SPECIAL | _SIZES | {"logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "jamba": (
        "model.layers",
        _SPECIAL
        | _SIZES
        | {"num_key_value_heads": 2, "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4}
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "llava": ("model.language_model.layers", _SPECIAL | _SIZES),
    "mamba": ("backbone.layers", _SPECIAL | {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "state_size": 8}),
    "mpt": ("transformer.blocks", _SPECIAL | {"d_model": WIDTH, "n_layers": DEPTH, "n_heads": HEADS}),
}
"""Models that no table of the library names: where their blocks are, and their configuration.

Logits that are scaled after the head (Cohere, Granite), blocks with and without attention in turn (Jamba), a language
model beside a vision tower (LLaVA), a cache that keeps a running state and no tokens (Mamba), none at all (MPT).
"""


@functools.cache
def model_of(name: str) -> PreTrainedModel:
    if name in FAMILIES:
        return tiny(name).hf
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name != "llava":
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **FURTHER[name][1])).eval()
        config = LlavaConfig(
            text_config={"model_type": "llama", **FURTHER[name][1]},
            vision_config={"model_type": "clip_vision_model", **_VISION},
            image_token_index=511,
        )
        return LlavaForConditionalGeneration(config).eval()


def blocks_of(hf: nn.Module, family: str) -> nn.ModuleList:
    return hf.get_submodule(FAMILIES[family].blocks if family in FAMILIES else FURTHER[family][0])


def before(version: str, limit: str) -> pytest.MarkDecorator:
    """Skips a test of something that transformers cannot do, or trimtab cannot do with it, before a version."""
    installed = Version(transformers.__version__)
    return pytest.mark.skipif(installed < Version(version), reason=f"before transformers {version} {limit}")


def columns(hf: nn.Module, start: int, end: int) -> dict[str, Tensor]:
    """Where in the sequence a forward's tokens stand, for versions that want to be told (then a cache may miscount)."""
    wants = "cache_position" in inspect.signature(hf.forward).parameters
    return {"cache_position": torch.arange(start, end)} if wants else {}


def ids_of(*shape: int, seed: int = 0) -> Tensor:
    """Random ordinary tokens: special ones have the ids below 7."""
    return torch.randint(7, 500, shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(width: int = WIDTH, seed: int = 0) -> Tensor:
    return nn.functional.normalize(normal(width, seed=seed), dim=0)


@dataclass(frozen=True)
class Formula:
    """A transform and the same map written by hand, (..., d) -> (..., d)."""

    transform: Transform
    plain: Callable[[Tensor], Tensor]


def _add(width: int) -> Formula:
    v = 4 * normal(width, seed=1)
    return Formula(Add(v), lambda h: h + v)


def _clamp_1(width: int) -> Formula:
    w = 1.5 * unit(width, seed=2)
    return Formula(Clamp(w, torch.tensor(6.0)), lambda h: h + ((6.0 - (h * w).sum(-1)) / 2.25)[..., None] * w)


def _clamp_2(width: int) -> Formula:
    rows = torch.stack([unit(width, seed=3), unit(width, seed=3) + 0.7 * unit(width, seed=4)])
    values = torch.tensor([5.0, -3.0])
    inverse = torch.linalg.pinv(rows.double()).float()  # (d, r)
    return Formula(Clamp(rows, values), lambda h: h + (values - h @ rows.T) @ inverse.T)


def _ablate(width: int) -> Formula:
    rows = normal(2, width, seed=5)
    keep = torch.eye(width) - (torch.linalg.pinv(rows.double()) @ rows.double()).float()
    return Formula(Ablate(rows), lambda h: h @ keep)


def _null_out(width: int) -> Formula:
    v = normal(width, seed=6)
    return Formula(
        NullOut(v, torch.tensor(3.0)),
        lambda h: h - (((h * v).sum(-1) + 3.0).clamp(min=0) / v.pow(2).sum())[..., None] * v,
    )


def _affine(width: int) -> Formula:
    matrix, bias = torch.eye(width) + 0.3 * normal(width, width, seed=7), normal(width, seed=8)
    return Formula(Affine(matrix, bias), lambda h: torch.einsum("ij,...j->...i", matrix, h) + bias)


def _low_rank(width: int) -> Formula:
    rotation = torch.linalg.qr(normal(width, 2, seed=9)).Q.T
    weight, bias = 0.5 * normal(2, width, seed=10), normal(2, seed=11)

    def formula(h: torch.Tensor) -> torch.Tensor:
        wanted = torch.einsum("rj,...j->...r", weight, h) + bias
        return h + torch.einsum("...r,rj->...j", wanted - torch.einsum("rj,...j->...r", rotation, h), rotation)

    return Formula(LowRank(rotation, weight, bias), formula)


TRANSFORMS: Mapping[str, Callable[[int], Formula]] = {
    "add": _add,
    "clamp_1": _clamp_1,
    "clamp_2": _clamp_2,
    "ablate": _ablate,
    "null_out": _null_out,
    "affine": _affine,
    "low_rank": _low_rank,
}


def edit(transform: Transform, site: Site | int = 1, positions: str = "all", **settings: Any) -> Intervention:
    """An intervention; a number is the layer of a `resid_post` site."""
    where = Site(site) if isinstance(site, int) else site
    return Intervention(where, transform, Positions.parse(positions), **settings)


def steering(*interventions: Intervention | Transform, prefix: Sequence[int] = (), **settings: Any) -> Steering:
    """A steering for any model; a bare transform goes to `resid_post@1`."""
    edits = [i if isinstance(i, Intervention) else edit(i) for i in interventions]
    return Steering(tuple(edits), tuple(prefix), **settings)


def push(
    seed: int = 1, site: Site | int = 1, positions: str | Positions = "all", *, prefix: Sequence[int] = ()
) -> Steering:
    """Adds a long vector: every edited token changes."""
    where = Site(site) if isinstance(site, int) else site
    rule = Positions.parse(positions) if isinstance(positions, str) else positions
    return Steering((Intervention(where, Add(4 * normal(WIDTH, seed=seed)), rule),), tuple(prefix))


def state_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def state_out(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def with_state_out(output: Any, state: Tensor) -> Any:
    return (state, *output[1:]) if isinstance(output, tuple) else state


def on_day(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    """Makes it that day of November 2026 in chat templates."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Then":
            return cls(2026, 11, day, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Then)


@contextmanager
def editing(module: nn.Module, side: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The oracle's hook: `change` applied to the input or output of a module, by plain torch."""
    if side == "out":
        handle = module.register_forward_hook(lambda _, __, out: with_state_out(out, change(state_out(out))))
    else:

        def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def place_of(hf: nn.Module, family: str, site: Site) -> tuple[nn.Module, str]:
    """The module and side of a site, from this file's own table."""
    block = blocks_of(hf, family)[site.layer]
    if site.kind in ("resid_pre", "resid_post"):
        return block, "in" if site.kind == "resid_pre" else "out"
    path, side = FAMILIES[family].parts[f"{site.kind}.{site.part}" if site.part else site.kind]
    return block.get_submodule(path), side


def run(hf: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        return hf(input_ids=ids, **{"attention_mask": torch.ones_like(ids), "use_cache": False, **kwargs}).logits


def trace(hf: nn.Module, ids: Tensor, **kwargs: Any) -> list[tuple[str, str, Tensor]]:
    """Every tensor that enters or leaves a module, in order: (module, side, tensor), as the last hook sees it."""
    seen: list[tuple[str, str, Tensor]] = []
    handles = []
    for name, module in hf.named_modules():

        def before(_: nn.Module, args: Any, name: str = name) -> None:
            seen.extend((name, "in", a.clone()) for a in args if isinstance(a, Tensor))

        def after(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            state = state_out(output)
            if isinstance(state, Tensor):
                seen.append((name, "out", state.clone()))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        logits = run(hf, ids, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return [*seen, ("logits", "out", logits)]


@contextmanager
def seeing_edits(hf: nn.Module, family: str, site: Site | int = 1) -> Iterator[list[Tensor]]:
    """For each forward the (b, s) tokens whose state at the site changed between the first and the last hook there.

    To be entered inside `steer`: its first hook then runs before the steering's.
    """
    module, side = place_of(hf, family, Site(site) if isinstance(site, int) else site)
    raw: list[Tensor] = []
    changed: list[Tensor] = []

    def first(state: Tensor) -> None:
        raw.append(state.clone())

    def last(state: Tensor) -> None:
        changed.append((raw.pop() != state).any(dim=-1))

    if side == "out":
        handles = [
            module.register_forward_hook(lambda _, __, out: first(state_out(out)), prepend=True),
            module.register_forward_hook(lambda _, __, out: last(state_out(out))),
        ]
    else:
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: first(state_in(args, kwargs)), prepend=True, with_kwargs=True
            ),
            module.register_forward_pre_hook(lambda _, args, kwargs: last(state_in(args, kwargs)), with_kwargs=True),
        ]
    try:
        yield changed
    finally:
        for handle in handles:
            handle.remove()
