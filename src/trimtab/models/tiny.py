"""Tiny random models of every supported family, made offline in a moment.

They are for tests and for trying commands without a download (`python -m trimtab.cli.tiny`): the real architectures of
transformers with a few small blocks, random weights and the tokenizer of `tiny_text`. What they write is noise, but
noise that depends on every input token, so edits of their hidden states are visible in the logits.

A new family is one entry in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from trimtab.errors import InputError
from trimtab.models.tiny_text import tiny_tokenizer

_N_HEADS = 4


class TinyModel(NamedTuple):
    """A tiny model and the tokenizer that goes with it."""

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


@dataclass(frozen=True)
class TinyShape:
    """What the families need to know to fill in their configuration; every width is a multiple of four heads."""

    hidden_size: int
    n_blocks: int
    vocab_size: int
    context_length: int
    initializer_range: float

    @property
    def special(self) -> dict[str, Any]:
        """Vocabulary and the special ids, named alike in all families."""
        return {"vocab_size": self.vocab_size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

    @property
    def plain(self) -> dict[str, Any]:
        """Settings of a decoder with as many key heads as query heads."""
        return self.special | {
            "hidden_size": self.hidden_size,
            "intermediate_size": 2 * self.hidden_size,
            "num_hidden_layers": self.n_blocks,
            "num_attention_heads": _N_HEADS,
            "max_position_embeddings": self.context_length,
            "initializer_range": self.initializer_range,
        }

    @property
    def grouped(self) -> dict[str, Any]:
        """The same with two query heads to a key head."""
        return self.plain | {"num_key_value_heads": _N_HEADS // 2}

    @property
    def headed(self) -> dict[str, Any]:
        """The same for families whose head width is a setting of its own."""
        return self.grouped | {"head_dim": self.head_dim}

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // _N_HEADS

    @property
    def gemma(self) -> dict[str, Any]:
        """Gemma scales its queries by a setting and keeps some blocks to a window."""
        return self.headed | {"query_pre_attn_scalar": self.head_dim, "sliding_window": self.context_length // 8}


_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

FAMILIES: Mapping[str, Callable[[TinyShape], dict[str, Any]]] = {
    "llama": lambda shape: shape.headed,
    "gemma2": lambda shape: shape.gemma,
    "gpt2": lambda shape: (
        shape.special
        | {
            "n_embd": shape.hidden_size,
            "n_inner": 2 * shape.hidden_size,
            "n_layer": shape.n_blocks,
            "n_head": _N_HEADS,
            "n_positions": shape.context_length,
            "initializer_range": shape.initializer_range,
        }
    ),
    "bitnet": lambda shape: shape.grouped,
    "falcon": lambda shape: shape.plain,
    "gemma3_text": lambda shape: shape.gemma,
    "gpt_neox": lambda shape: shape.plain,
    "gpt_oss": lambda shape: shape.headed | _EXPERTS | {"rope_parameters": _ROPE},
    "mistral": lambda shape: shape.headed,
    "mixtral": lambda shape: shape.headed | _EXPERTS,
    "olmo2": lambda shape: shape.grouped,
    "opt": lambda shape: (
        shape.plain
        | {
            "ffn_dim": 2 * shape.hidden_size,
            "word_embed_proj_dim": shape.hidden_size,
            "init_std": shape.initializer_range,
        }
    ),
    "phi3": lambda shape: shape.grouped,
    "qwen2": lambda shape: shape.grouped,
    "qwen3": lambda shape: shape.headed,
    "qwen3_moe": lambda shape: (
        shape.headed | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": shape.hidden_size}
    ),
}
"""Family name as transformers writes it -> the arguments of its configuration."""


def tiny_model(
    family: str = "llama",
    *,
    seed: int = 0,
    hidden_size: int = 64,
    n_blocks: int = 4,
    vocab_size: int = 512,
    context_length: int = 512,
    chat: bool = True,
    dtype: torch.dtype = torch.float32,
    initializer_range: float = 0.15,
) -> TinyModel:
    """Makes a tiny random model in memory; the global random state is left alone.

    Args:
        family: One of `FAMILIES`.
        seed: Decides the weights.
        hidden_size: Width of the residual stream, a multiple of 8 (four heads of even width).
        n_blocks: Number of decoder blocks.
        vocab_size: Rows of the embedding; the tokenizer uses as many of them as it has tokens for.
        context_length: Longest sequence the model takes.
        chat: Whether the tokenizer has a chat template.
        dtype: Type of the weights.
        initializer_range: Standard deviation of the weights. The default makes the blocks write about as much as they
            read, so that the outputs depend on the whole context.

    Returns:
        The model in evaluation mode, on the CPU, and its tokenizer.

    Raises:
        InputError: Unknown family or a size that no model can have.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown model family {family!r}; allowed: {', '.join(sorted(FAMILIES))}")
    if hidden_size < 2 * _N_HEADS or hidden_size % (2 * _N_HEADS):
        raise InputError(f"hidden_size {hidden_size} does not fit; give a multiple of {2 * _N_HEADS}, such as 64")
    if n_blocks < 1 or context_length < 8:
        raise InputError(f"n_blocks {n_blocks}, context_length {context_length}: give at least 1 and at least 8")
    tokenizer = tiny_tokenizer(vocab_size=vocab_size, chat=chat)
    tokenizer.model_max_length = context_length
    shape = TinyShape(hidden_size, n_blocks, vocab_size, context_length, initializer_range)
    config = AutoConfig.for_model(family, **FAMILIES[family](shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return TinyModel(hf.eval(), tokenizer)


def make_tiny_model(path: str | Path, *, family: str = "llama", overwrite: bool = False, **settings: Any) -> Path:
    """Makes a tiny random model and saves it as a directory that `load_model` and transformers read.

    Args:
        path: The directory to write.
        family: One of `FAMILIES`.
        overwrite: Write into a directory that holds something already.
        **settings: The other arguments of `tiny_model`.

    Returns:
        The directory.

    Raises:
        InputError: As `tiny_model`, or the directory holds something already.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not overwrite):
        raise InputError(f"{path}: exists already; give another directory, or pass overwrite (--overwrite)")
    hf, tokenizer = tiny_model(family, **settings)
    hf.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
