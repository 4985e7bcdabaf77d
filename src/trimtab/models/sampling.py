"""Sampling that depends on the row alone: a row gives the same text in every batch, order and run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class GumbelSampling(LogitsProcessor):
    """Turns greedy choice into sampling at a temperature: adds Gumbel noise of each row's own generator to logits / T.

    The arg max of logits / T + Gumbel noise is an exact draw from softmax(logits / T).

    Args:
        temperature: T > 0.
        seeds: One seed a row of the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (b, v) with noise, float32."""
        noise = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self._generators])
        gumbel = -torch.log(-torch.log(noise.clamp_min(torch.finfo(torch.float32).tiny)))
        return scores.float() / self._temperature + gumbel.to(scores.device)
