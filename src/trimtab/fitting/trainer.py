"""Train edits: only the blocks above the lowest site run in a step, on padded groups of equal-ish length.

Several concepts may be trained in lockstep: a step takes one batch of each, all of them go through the blocks together,
and every concept has parameters, clipping, learning rate and number of steps of its own. A concept's numbers are
those that it has alone.

Letters: b sequences of a group, s tokens, d hidden, r rank, n scored tokens of a group, v vocabulary, m sites,
k concepts.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.buckets import OVERHEAD_TOKENS, buckets
from trimtab.fitting.cache import FrozenCache
from trimtab.fitting.divergence import Objective
from trimtab.fitting.edits import FACTOR, EditKind
from trimtab.fitting.items import Item
from trimtab.fitting.jobs import Job, Rows, State, Trace
from trimtab.fitting.settings import TrainSettings
from trimtab.models.split import SplitModel
from trimtab.models.upper import UpperBlocks
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Geometry, Positions

CHUNK_BYTES = 16 * 1024**2
"""Size of one float32 logits chunk: enough tokens for a good product with the head, and far below a whole (n, v)."""

HALF_SCALE = 2.0**8
"""What gradients are multiplied by on their way through a model in float16.

What a token sends to most entries of a large vocabulary is below 6e-8, which float16 makes 0. A power of two changes no
other number.
"""

FLAT_OVERHEAD = 10**6
"""What one more forward costs, in padded tokens, where no block computes pads: groups are then as large as allowed."""

PROOF_ITEMS = 8
"""Sequences, the longest ones, on which shortcuts are proved before they are used."""


class EditTrainer:
    """Runs the training loop of CDAS (specification, section 4) for any trained edit and any objective.

    Args:
        model: The frozen model in parts.
        cache: Frozen states of `items`.
        items: Of all concepts: for every pair one a way, or two (preferred, other) for a preference.
        kind: What is trained.
        objective: Loss of a token with its gradient.
        settings: Learning rate, batch size and so on.

    Attributes:
        masks: Of each item (s,) bool, which tokens of its base sequence are edited.
    """

    def __init__(
        self,
        model: SplitModel,
        cache: FrozenCache,
        items: Sequence[Item],
        kind: EditKind,
        objective: Objective,
        settings: TrainSettings,
    ) -> None:
        self._model, self._cache, self._items, self._kind = model, cache, items, kind
        self._objective, self._settings = objective, settings
        self._answers = 1 if objective.preference is None else 2
        self._logits: Tensor | None = None
        self.masks = [_edit_mask(item, Positions.parse(settings.positions)) for item in items]
        if not any(bool(mask.any()) for mask in self.masks):
            raise InputError(
                f"positions {settings.positions!r} pick no token of any pair; use 'all', or longer responses"
            )

        shared = shared_prefix(items)
        self._device = cache.sources.device
        self._upper = UpperBlocks(model, settings.layers[0], items[0].base[:shared], self._device)
        longest = sorted(range(len(items)), key=lambda index: -len(items[index].base))
        longest = longest[: max(1, min(PROOF_ITEMS, settings.max_tokens // len(items[longest[0]].base)))]
        states, where = self._padded(longest)[0], (*self._scored(longest), self._lengths(longest))
        first = where[0] == 0
        self._upper.check_alone(states[:1], where[0][first], where[1][first], where[2][:1], [items[longest[0]].base])
        self._upper.prove(states, *where)

    def run(self, jobs: Sequence[Job], progress: ProgressCallback | None = None) -> list[Trace]:
        """Train all jobs, in lockstep; a trace each. One whose loss or gradient is not finite stops there."""
        states = [self._begun(job) for job in jobs]
        total, started = max(state.steps for state in states), time.monotonic()
        for step in range(total):
            active = [state for state in states if state.is_active(step)]
            if not active:
                break
            loss = self._step(active, step)
            if progress is not None:
                progress(Progress("fit", step + 1, total, time.monotonic() - started, loss))
        return [state.trace() for state in states]

    def _begun(self, job: Job) -> State:
        settings = self._settings
        batches = [batch for epoch in job.order for batch in epoch.split(settings.batch_size)]
        parameters = {name: value.to(self._device, copy=True) for name, value in job.start.items()}
        trained = [name for name in parameters if name not in self._kind.constants]
        rates = {name: settings.lr * self._kind.rates.get(name, 1.0) for name in trained}
        groups = [{"params": [parameters[name]], "lr": rates[name], "full": rates[name]} for name in trained]
        optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        generator = torch.Generator().manual_seed(settings.seed)
        return State(job, generator, batches, parameters, optimiser, [_directions(parameters)], [], [])

    def _step(self, active: Sequence[State], step: int) -> float:
        """One step of every active job; the mean of their losses."""
        rows = [self._rows(state, step, place) for place, state in enumerate(active)]
        together = Rows.together(rows)
        leaves = {name: torch.stack([state.parameters[name] for state in active]) for name in active[0].parameters}
        leaves = {name: leaf.requires_grad_(name not in self._kind.constants) for name, leaf in leaves.items()}
        scale = 2.0 ** -math.floor(math.log2(float(together.weights.max())))
        losses = torch.zeros(len(together.items), dtype=torch.float64)
        for group in self._groups(together):
            losses[group] = self._group(leaves, together, group, scale)
        seen, start = [], 0
        for place, state in enumerate(active):
            n = len(rows[place].items)
            of_job = {
                name: _gradient(leaf)[place] / (scale * self._half_scale)
                for name, leaf in leaves.items()
                if leaf.requires_grad
            }
            seen.append(self._moved(state, step, losses[start : start + n], rows[place], of_job))
            start += n
        return math.fsum(seen) / len(seen)

    def _rows(self, state: State, step: int, place: int) -> Rows:
        """The sequences of a job's step, in the published order: for each pair its ways."""
        pairs, size = state.batches[step].tolist(), len(self._kind.ways) * self._answers
        items = [state.job.first + pair * size + offset for pair in pairs for offset in range(size)]
        counts = self._counts(items)
        ways = len(self._kind.ways)
        if self._objective.preference is not None or self._settings.weighting == "response":
            weights = 1.0 / (counts * len(items) / self._answers)
        else:
            weights = 1.0 / (ways * counts.view(ways, -1).sum(dim=1).repeat_interleave(len(items) // ways))
        shares = torch.full((len(items),), step / state.steps / len(items))
        factors, draw = None, self._kind.draw
        if draw is not None:
            factors = draw.draw(len(pairs), ways, self._answers, state.generator).reshape(-1)
        return Rows(items, torch.full((len(items),), place), weights.float(), shares, factors)

    def _counts(self, items: Sequence[int]) -> Tensor:
        """What a minibatch's loss is a mean over, by sequence: its scored tokens, or 1 for a preference."""
        if self._objective.preference is not None:
            return torch.ones(len(items), dtype=torch.int64)
        return torch.tensor([self._items[item].n_scored for item in items])

    def _groups(self, rows: Rows) -> list[list[int]]:
        """Rows in groups of one forward each, the answers of a preference side by side."""
        prefix, answers = self._upper.prefix_length, self._answers
        lengths = [len(self._items[item].base) - prefix for item in rows.items]
        units = [max(lengths[place : place + answers]) for place in range(0, len(lengths), answers)]
        most = max(1, self._settings.max_tokens // answers)
        overhead = FLAT_OVERHEAD if self._upper.is_flat else OVERHEAD_TOKENS
        return [
            [answers * unit + offset for unit in group for offset in range(answers)]
            for group in buckets(units, most, overhead)
        ]

    def _group(self, leaves: Mapping[str, Tensor], rows: Rows, group: list[int], scale: float) -> Tensor:
        """Forward and backward of one padded group; the loss of each sequence (b,) float64.

        That is its tokens' sum, or for a preference half of the pair's. The gradients of the parameters (k, m, ...)
        are added to the leaves', times `scale`.
        """
        items, concepts = [rows.items[row] for row in group], rows.concepts[group].to(self._device)
        factors = None if rows.factors is None else rows.factors[group].to(self._device)
        states, mask = self._padded(items)
        lines, columns = self._scored(items)
        sources = self._cache.sources[items]  # (b, m, d)

        def own(site: int) -> dict[str, Tensor]:
            found = {name: leaf[0, site] if len(leaf) == 1 else leaf[concepts, site] for name, leaf in leaves.items()}
            return found if factors is None else {**found, FACTOR: factors}

        def edit(h: Tensor, site: int) -> Tensor:
            return self._kind.apply(h, sources[:, site], own(site), mask)

        editors = {
            layer: lambda h, site=site: edit(h, site) for site, layer in enumerate(self._settings.layers) if site > 0
        }
        picked = self._upper(edit(states, 0), lines, columns, self._lengths(items), editors)  # (n, d)
        n_scored = [self._items[item].n_scored for item in items]
        chunks = scored_chunks(n_scored, CHUNK_BYTES // (4 * self._model.vocabulary))
        values, gradient = self._score(picked.detach(), self._reference(items), chunks)
        losses, weights = self._weighed(values, lines, items, rows.weights[group].to(self._device), factors)
        picked.backward(gradient.mul_((scale * weights)[:, None].to(gradient.dtype)))
        if self._kind.penalty is not None:
            penalties = self._kind.penalty(states, own(0), mask)
            penalties.backward((rows.shares[group] * scale * self._half_scale).to(penalties))
        return losses.cpu()

    def _lengths(self, items: Sequence[int]) -> Tensor:
        """(b,) int64 tokens of each base sequence after the shared prefix."""
        return torch.tensor([len(self._items[item].base) - self._upper.prefix_length for item in items])

    def _weighed(
        self, values: Tensor, lines: Tensor, items: Sequence[int], weights: Tensor, factors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each sequence (b,) float64, and what each token's gradient (n,) counts in its job's loss."""
        sums = torch.zeros(len(items), dtype=torch.float64, device=values.device)
        sums.index_add_(0, lines, values.double())
        preference = self._objective.preference
        if preference is None:
            return sums, weights[lines]
        log_p = -sums.float().view(-1, 2)  # the values are cross-entropies
        whole = self._objective.lengths == "sequence"
        lengths = [one.n_scored + whole * one.base_prompt for one in (self._items[item] for item in items)]
        tokens = torch.tensor(lengths, dtype=torch.float32, device=values.device).view(-1, 2)
        signs = torch.ones_like(log_p[:, 0])
        if factors is not None:
            signs = torch.where(factors.view(-1, 2)[:, 0] < 0, -signs, signs)
        loss = preference(log_p[:, 0], log_p[:, 1], self._cache.likelihoods[list(items)].view(-1, 2), tokens, signs)
        slopes = -torch.stack([loss.chosen, loss.rejected], dim=1).view(-1) * weights
        return loss.value.double().repeat_interleave(2) / 2, slopes[lines]

    def _moved(self, state: State, step: int, losses: Tensor, rows: Rows, gradients: Mapping[str, Tensor]) -> float:
        """The optimiser's step of one job, unless something is not finite; its mean loss."""
        settings, ways = self._settings, len(self._kind.ways)
        counts = self._counts(rows.items).view(ways, -1).sum(dim=1) // (1 if self._answers == 1 else 2)
        mean = (losses.view(ways, -1).sum(dim=1) / counts).float()
        if not (torch.isfinite(mean).all() and all(bool(torch.isfinite(g).all()) for g in gradients.values())):
            state.diverged_at = step
            return float(mean.mean())
        if self._kind.tangent is not None:
            gradients = self._kind.tangent(state.parameters, gradients)
        for name, gradient in gradients.items():
            state.parameters[name].grad = gradient
        clipped = [state.parameters[name] for name in gradients if name not in self._kind.unclipped]
        torch.nn.utils.clip_grad_norm_(clipped, settings.grad_clip)
        for group in state.optimiser.param_groups:
            group["lr"] = group["full"] * settings.rate(step, state.steps)
        state.optimiser.step()
        for name, value in self._kind.retracted(state.parameters).items():
            state.parameters[name].copy_(value)
        state.vectors.append(_directions(state.parameters))
        state.losses.append(mean)
        state.counts.append(counts)
        return float(mean.mean())

    def _reference(self, items: Sequence[int]) -> Callable[[int, int], Tensor]:
        """What the objective compares these items' scored tokens with: (start, end) -> that part of it."""
        if self._objective.reference == "teacher":
            return self._cache.teacher(items)
        tokens = [token for item in items for token in self._items[item].response]
        labels = torch.tensor(tokens, device=self._device)
        return lambda start, end: labels[start:end]

    def _padded(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Base states after the shared prefix (b, s, d), and the mask (b, s) of edited tokens."""
        prefix = self._upper.prefix_length
        base = [states[prefix:] for states in self._cache.base(items)]
        states = torch.nn.utils.rnn.pad_sequence(base, batch_first=True)
        masks = [self.masks[item][prefix:] for item in items]
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True).to(states.device)
        return states, mask

    def _scored(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Row and column (n,) of every scored token, columns counted after the shared prefix."""
        prefix, chosen = self._upper.prefix_length, [self._items[item] for item in items]
        rows = torch.cat([torch.full((item.n_scored,), row) for row, item in enumerate(chosen)])
        columns = torch.cat([torch.arange(item.scored.start - prefix, item.scored.stop - prefix) for item in chosen])
        return rows.to(self._device), columns.to(self._device)

    @property
    def _half_scale(self) -> float:
        return HALF_SCALE if self._model.dtype == torch.float16 else 1.0

    def _score(
        self, states: Tensor, reference: Callable[[int, int], Tensor], chunks: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Loss (n,) of head inputs (n, d) and its gradient (n, d) in chunks; never all logits at once.

        The gradient is multiplied by `HALF_SCALE` in float16.
        """
        values, gradients, weight = [], [], self._model.head_weight
        for start, end in chunks:
            part = states[start:end]
            with torch.enable_grad():
                logits = self._model.logits(part.requires_grad_()) if weight is None else self._product(part, weight)
            loss = self._objective.loss(logits.detach(), reference(start, end))
            gradient = loss.gradient if self._half_scale == 1 else loss.gradient.mul_(self._half_scale)
            gradient = gradient.to(logits.dtype)
            gradients.append(torch.autograd.grad(logits, part, gradient)[0] if weight is None else gradient @ weight)
            values.append(loss.value)
        return torch.cat(values), torch.cat(gradients)

    @torch.no_grad()
    def _product(self, states: Tensor, weight: Tensor) -> Tensor:
        """Logits (n, v), in memory that all steps share: new memory for each would be touched for the first time."""
        if self._logits is None or len(self._logits) < len(states):
            self._logits = states.new_empty((len(states), len(weight)))
        return torch.mm(states, weight.T, out=self._logits[: len(states)])


def _gradient(leaf: Tensor) -> Tensor:
    """A leaf's gradient, zeros if nothing depended on it."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _directions(parameters: Mapping[str, Tensor]) -> Tensor:
    """What a trace keeps: the first parameter, (m, r, d)."""
    return next(iter(parameters.values())).detach().cpu().clone()


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
