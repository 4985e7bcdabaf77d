"""Train directions by interchange: only the blocks above the site run in a step, on padded groups of equal-ish length.

Letters: b sequences of a group, s tokens, d hidden, r rank, n scored tokens of a group, v vocabulary.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.buckets import buckets
from trimtab.fitting.cache import FrozenCache
from trimtab.fitting.divergence import Objective
from trimtab.fitting.interchange import interchange
from trimtab.fitting.items import Item
from trimtab.fitting.order import retract
from trimtab.fitting.settings import TrainSettings
from trimtab.models.split import SplitModel
from trimtab.models.upper import UpperBlocks
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Geometry, Positions

CHUNK_BYTES = 8 * 1024**2
"""Size of one float32 logits chunk: small enough for a CPU's cache and far below a whole (n, v)."""

GRADIENT_SCALE = 2.0**8
"""What a scored token's gradient is multiplied by on its way through the model.

A token weighs one part in hundreds, and what it sends to most entries of a large vocabulary is smaller still: below
6e-8 float16 makes it 0. A power of two changes no other number.
"""

PROOF_ITEMS = 8
"""Sequences, the longest ones, on which shortcuts are proved before they are used."""


@dataclass(frozen=True)
class Trace:
    """A run, step by step, up to the last step that was finite.

    Attributes:
        vectors: (steps + 1, r, d) float32, before the first and after every step.
        losses: (2 * steps,) float32, mean loss over the scored tokens of each minibatch.
        n_tokens: (2 * steps,) int64, scored tokens of each minibatch.
    """

    vectors: Tensor
    losses: Tensor
    n_tokens: Tensor


class DivergedError(ArithmeticError):
    """Loss or gradient left the finite numbers.

    Attributes:
        step: 0-based step.
        trace: The steps before it; its last directions are the last good ones.
    """

    def __init__(self, step: int, trace: Trace) -> None:
        super().__init__(step, trace)
        self.step, self.trace = step, trace


class InterchangeTrainer:
    """Runs the training loop of CDAS (specification, section 4) for any token objective.

    Args:
        model: The frozen model in parts.
        cache: Frozen states of `items`.
        items: Two a pair: elicit, suppress.
        objective: Loss of a token with its gradient.
        settings: Learning rate, batch size and so on.
    """

    def __init__(
        self,
        model: SplitModel,
        cache: FrozenCache,
        items: Sequence[Item],
        objective: Objective,
        settings: TrainSettings,
    ) -> None:
        self._model, self._cache, self._items = model, cache, items
        self._objective, self._settings = objective, settings
        self._masks = [_edit_mask(item, Positions.parse(settings.positions)) for item in items]
        if not any(bool(mask.any()) for mask in self._masks):
            raise InputError(
                f"positions {settings.positions!r} pick no token of any pair; use 'all', or longer responses"
            )

        shared = shared_prefix(items)
        self._upper = UpperBlocks(model, settings.layer, items[0].base[:shared], cache.sources.device)
        longest = sorted(range(len(items)), key=lambda index: -len(items[index].base))[:PROOF_ITEMS]
        states, _ = self._padded(longest)
        self._upper.prove(states, *self._scored(longest, states.device))

    def run(self, start: Tensor, order: Tensor, progress: ProgressCallback | None = None) -> Trace:
        """Train from `start` (r, d) over pairs in `order` (epochs, pairs).

        Raises:
            DivergedError: The loss or the gradient of a step was not finite.
        """
        settings = self._settings
        batches = [batch for epoch in order for batch in epoch.split(settings.batch_size)]
        weights = start.clone().requires_grad_()
        optimiser = torch.optim.AdamW([weights], lr=settings.lr, weight_decay=settings.weight_decay)
        vectors, losses, counts = [start.clone().cpu()], [torch.empty(0)], [torch.empty(0, dtype=torch.int64)]
        started = time.monotonic()
        for step, batch in enumerate(batches):
            optimiser.param_groups[0]["lr"] = settings.lr * (1 - step / len(batches))
            optimiser.zero_grad()
            loss, n_tokens = self._step(weights, batch.tolist())
            assert weights.grad is not None
            if not (torch.isfinite(loss).all() and torch.isfinite(weights.grad).all()):
                raise DivergedError(step, Trace(torch.stack(vectors), torch.cat(losses), torch.cat(counts)))
            torch.nn.utils.clip_grad_norm_([weights], settings.grad_clip)
            optimiser.step()
            with torch.no_grad():
                weights.copy_(retract(weights))
            vectors.append(weights.detach().cpu().clone())
            losses.append(loss)
            counts.append(n_tokens)
            if progress is not None:
                progress(Progress("fit", step + 1, len(batches), time.monotonic() - started, float(loss.mean())))
        return Trace(torch.stack(vectors), torch.cat(losses), torch.cat(counts))

    def _step(self, weights: Tensor, pairs: list[int]) -> tuple[Tensor, Tensor]:
        """Accumulate the gradient of one step; mean loss (2,) and scored tokens (2,) of its two minibatches."""
        indices = [2 * pair + side for pair in pairs for side in (0, 1)]
        half = len(indices) // 2
        scored = torch.tensor([self._items[index].n_scored for index in indices])
        n_tokens = torch.stack([scored[:half].sum(), scored[half:].sum()])
        weight = self._token_weights(scored, n_tokens)
        scale = GRADIENT_SCALE * 2.0 ** -math.floor(math.log2(float(weight.max())))
        sums = torch.zeros(len(indices), dtype=torch.float64)
        lengths = [len(self._items[index].base) - self._upper.prefix_length for index in indices]
        for group in buckets(lengths, self._settings.max_tokens):
            sums[group] = self._group(weights, [indices[k] for k in group], scale * weight[group])
        assert weights.grad is not None
        weights.grad.div_(scale)
        minibatch = torch.stack([sums[:half].sum(), sums[half:].sum()])
        return (minibatch / n_tokens).float(), n_tokens

    def _token_weights(self, scored: Tensor, n_tokens: Tensor) -> Tensor:
        """What one scored token of each item weighs in the step's loss: (items,) float32, summing to 1 over tokens."""
        if self._settings.weighting == "response":
            return 1.0 / (scored * len(scored))
        return 1.0 / (2 * n_tokens.repeat_interleave(len(scored) // 2)).float()

    def _group(self, weights: Tensor, indices: list[int], weight: Tensor) -> Tensor:
        """Forward and backward of one padded group; sum of the losses of each item's tokens (b,) float64."""
        states, mask = self._padded(indices)
        rows, columns = self._scored(indices, states.device)
        edited = interchange(states, self._cache.sources[indices], weights, mask)
        picked = self._upper(edited, rows, columns)  # (n, d)
        n_scored = [self._items[index].n_scored for index in indices]
        chunks = scored_chunks(n_scored, CHUNK_BYTES // (4 * self._model.vocabulary))
        reference = self._reference(indices, rows.device)
        values, gradient = self._score(picked.detach(), reference, weight.to(rows.device)[rows], chunks)
        picked.backward(gradient)
        return torch.zeros(len(indices), dtype=torch.float64).index_add_(0, rows.cpu(), values.cpu().double())

    def _reference(self, indices: Sequence[int], device: torch.device) -> Callable[[int, int], Tensor]:
        """What the objective compares these items' scored tokens with: (start, end) -> that part of it."""
        if self._objective.reference == "teacher":
            return self._cache.teacher(indices)
        labels = torch.tensor([token for index in indices for token in self._items[index].response], device=device)
        return lambda start, end: labels[start:end]

    def _padded(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Base states after the shared prefix (b, s, d), and the mask (b, s) of edited tokens."""
        prefix = self._upper.prefix_length
        base = [states[prefix:] for states in self._cache.base(indices)]
        states = torch.nn.utils.rnn.pad_sequence(base, batch_first=True)
        masks = [self._masks[index][prefix:] for index in indices]
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True).to(states.device)
        return states, mask

    def _scored(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column (n,) of every scored token, columns counted after the shared prefix."""
        prefix, items = self._upper.prefix_length, [self._items[index] for index in indices]
        rows = torch.cat([torch.full((item.n_scored,), row) for row, item in enumerate(items)])
        columns = torch.cat([torch.arange(item.scored.start - prefix, item.scored.stop - prefix) for item in items])
        return rows.to(device), columns.to(device)

    def _score(
        self,
        states: Tensor,
        reference: Callable[[int, int], Tensor],
        weight: Tensor,
        chunks: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Loss (n,) of head inputs (n, d) and the weighted gradient (n, d) in chunks; never all logits at once."""
        values, gradients = [], []
        for start, end in chunks:
            part = states[start:end].requires_grad_()
            with torch.enable_grad():
                logits = self._model.logits(part)
            loss = self._objective.loss(logits.detach(), reference(start, end))
            gradient = loss.gradient.mul_(weight[start:end, None]).to(logits.dtype)
            gradients.append(torch.autograd.grad(logits, part, gradient)[0])
            values.append(loss.value)
        return torch.cat(values), torch.cat(gradients)


def scored_chunks(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Split consecutive runs of tokens into chunks (start, end) of at most `most` (at least 1) tokens.

    Runs of more than half a chunk get chunks of their own, so that what is stored a run need not be joined.
    """
    most = max(1, most)
    chunks: list[tuple[int, int]] = []
    start = end = 0
    for size in sizes:
        if end > start and (2 * size > most or end - start + size > most):
            chunks.append((start, end))
            start = end
        end += size
        if 2 * size > most:
            pieces = -(-size // most)
            borders = [start + size * k // pieces for k in range(pieces + 1)]
            chunks += itertools.pairwise(borders)
            start = end
    return [*chunks, (start, end)] if end > start else chunks


def shared_prefix(items: Sequence[Item]) -> int:
    """Leading base tokens that all items share and nobody edits: template prefix, as far as nothing in it is scored."""
    return min(min(item.prefix, item.scored.start) for item in items)


def _edit_mask(item: Item, positions: Positions) -> Tensor:
    """(s,) bool: which tokens of an item's base sequence are edited."""
    index = torch.arange(len(item.base))[None]
    ids = torch.tensor(item.base)[None]
    geometry = Geometry(index, torch.tensor([item.prefix]), torch.tensor([item.base_prompt]), ids)
    return positions.mask(geometry)[0]
