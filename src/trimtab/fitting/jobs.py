"""What a training loop keeps of its jobs: their start, their state under way, the rows of a step, and what is left.

Letters: d hidden, r rank, m sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """A run, step by step, up to the last step that was finite. `ways` is the number of minibatches of a step.

    Attributes:
        vectors: (steps + 1, m, r, d) float32, directions before the first and after every step.
        losses: (ways * steps,) float32, mean loss over the scored tokens (or pairs of answers) of each minibatch.
        n_tokens: (ways * steps,) int64, scored tokens (or pairs of answers) of each minibatch.
        parameters: All parameters after the last step, (m, ...) each.
        diverged_at: 0-based step at which loss or gradient left the finite numbers.
    """

    vectors: Tensor
    losses: Tensor
    n_tokens: Tensor
    parameters: Mapping[str, Tensor]
    diverged_at: int | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One concept of a run.

    Args:
        first: Number of its first item among all.
        order: (epochs, pairs) int64, its pairs in the order they are used.
        start: Its parameters (m, ...).
    """

    first: int
    order: Tensor
    start: Mapping[str, Tensor]


@dataclass(eq=False)
class State:
    """A job under way."""

    job: Job
    generator: torch.Generator
    batches: Sequence[Tensor]
    parameters: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    vectors: list[Tensor]
    losses: list[Tensor]
    counts: list[Tensor]
    diverged_at: int | None = None

    @property
    def steps(self) -> int:
        """How many it has in all."""
        return len(self.batches)

    def is_active(self, step: int) -> bool:
        """Whether it has a step of that number."""
        return self.diverged_at is None and step < self.steps

    def trace(self) -> Trace:
        """What it left behind."""
        losses, counts = torch.cat([torch.empty(0), *self.losses]), torch.cat([_NO_COUNTS, *self.counts])
        final = {name: value.detach().cpu().clone() for name, value in self.parameters.items()}
        return Trace(torch.stack(self.vectors), losses, counts, final, self.diverged_at)


_NO_COUNTS = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Rows:
    """The sequences of a step.

    Attributes:
        items: Their numbers.
        concepts: (rows,) int64, which of the active jobs each belongs to.
        weights: (rows,) float32, what a scored token of each weighs in its job's loss (or an answer, for a preference).
        shares: (rows,) float32, what each weighs in its job's penalty: the share of the run that is over, a row.
        factors: (rows,) float32, drawn, or None.
    """

    items: list[int]
    concepts: Tensor
    weights: Tensor
    shares: Tensor
    factors: Tensor | None

    @classmethod
    def together(cls, rows: Sequence[Rows]) -> Rows:
        """The sequences of all jobs."""
        drawn = [one.factors for one in rows if one.factors is not None]
        return cls(
            [item for one in rows for item in one.items],
            torch.cat([one.concepts for one in rows]),
            torch.cat([one.weights for one in rows]),
            torch.cat([one.shares for one in rows]),
            torch.cat(drawn) if drawn else None,
        )
