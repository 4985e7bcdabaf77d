"""What runs beside `generate`: sampling that depends on the row alone, and a count of what is done.

A row gives the same text in every batch, order and run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from trimtab.progress import Progress, ProgressCallback


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

    def of(self, rows: Sequence[int]) -> GumbelSampling:
        """The same for these rows alone; they go on from where they are."""
        part = GumbelSampling(self._temperature, ())
        part._generators = [self._generators[row] for row in rows]
        return part

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (b, v) with noise, float32."""
        noise = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self._generators])
        gumbel = -torch.log(-torch.log(noise.clamp_min(torch.finfo(torch.float32).tiny)))
        return scores.float() / self._temperature + gumbel.to(scores.device)


class GenerationProgress(LogitsProcessor):
    """Changes no score; reports every column of new tokens.

    Args:
        progress: Who is told, or None.
        batches: Batches to come.
        columns: Most new tokens a row.
    """

    def __init__(self, progress: ProgressCallback | None, batches: int, columns: int) -> None:
        self._progress, self._columns, self._total = progress, columns, batches * columns
        self._done, self._started = 0, time.monotonic()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (b, v) as they are."""
        self._done += 1
        self._report()
        return scores

    def restart_batch(self) -> None:
        """Take back what was counted of the batch under way."""
        self._done -= self._done % self._columns

    def end_batch(self) -> None:
        """Count the batch as whole, also when every row ended early."""
        if self._done % self._columns:
            self._done += self._columns - self._done % self._columns
            self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress("generate", self._done, self._total, time.monotonic() - self._started))
