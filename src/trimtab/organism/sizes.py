"""The sizes in which the organism can be trained, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transformers import LlamaConfig


@dataclass(frozen=True)
class Size:
    """Shape of the model and length of its training.

    Attributes:
        hidden: Width of the residual stream.
        blocks: Number of blocks.
        heads: Attention heads, each `hidden / heads` wide.
        mlp: Width inside the MLP.
        steps: Optimiser steps.
        rate: Highest learning rate of AdamW, which moves embeddings and norms.
        muon_rate: Highest learning rate of Muon, which moves the matrices of the blocks.
        batch: Exchanges a step.
        vocab: Number of tokens.
        context: Longest input.
        mixed: Whether matrices are multiplied in bfloat16, which takes a wide model half the time.
        mixture_steps: Steps that the mixture of tasks is paced for; 0 for `steps`.
    """

    hidden: int
    blocks: int
    heads: int
    mlp: int
    steps: int
    rate: float
    muon_rate: float = 0.02
    batch: int = 96
    vocab: int = 3072
    context: int = 256
    mixed: bool = False
    mixture_steps: int = 0

    def config(self, *, bos: int, eos: int, pad: int) -> LlamaConfig:
        """The Llama configuration of this size."""
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            intermediate_size=self.mlp,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            initializer_range=self.hidden**-0.5,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "S": Size(hidden=160, blocks=8, heads=5, mlp=432, steps=3600, rate=3e-3),
        "M": Size(hidden=256, blocks=10, heads=8, mlp=688, steps=1200, rate=2e-3, mixed=True),
        "L": Size(hidden=384, blocks=12, heads=12, mlp=1024, steps=600, rate=1.5e-3, mixed=True, mixture_steps=900),
    }
)
"""S ships with trimtab; M and L are for studies of scale."""
