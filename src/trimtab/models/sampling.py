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


class RowSampling(LogitsProcessor):
    """Turns greedy choice into sampling at a temperature: leaves the one token that each row's own generator draws.

    A token is the first whose cumulated probability exceeds a uniform number, one a row and step, whatever the size of
    the vocabulary.

    Args:
        temperature: T > 0.
        seeds: One seed a row of the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(self, rows: Sequence[int]) -> RowSampling:
        """The same for these rows alone; they go on from where they are."""
        part = RowSampling(self._temperature, ())
        part._generators = [self._generators[row] for row in rows]
        return part

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (b, v): 0 for the token that is drawn, minus infinity for the others, float32."""
        logits = scores.float()
        logits = (logits - logits.amax(dim=1, keepdim=True)) / self._temperature  # 0 / T however small T is
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        cumulated = logits.softmax(dim=1).to(exact).cumsum(dim=1)
        drawn = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in self._generators])
        drawn = drawn.clamp_max(1 - 1e-12).to(scores.device, exact)[:, None] * cumulated[:, -1:]
        token = torch.searchsorted(cumulated, drawn, right=True).clamp_max(scores.shape[1] - 1)
        return torch.full_like(logits, -torch.inf).scatter_(1, token, 0.0)


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
