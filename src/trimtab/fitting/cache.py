"""What is frozen is computed once: base states, source states and teacher distributions of interchange items.

Letters: n scored tokens, d hidden, v vocabulary, s tokens of a sequence, m sites.
"""

from __future__ import annotations

import itertools
import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.fitting.buckets import buckets
from trimtab.fitting.items import Item
from trimtab.models.capture import pad_right
from trimtab.models.split import SplitModel
from trimtab.progress import Progress, ProgressCallback

logger = logging.getLogger(__name__)

BUILD_TOKENS = 4096
"""Most padded tokens in one forward over whole sequences, unless one sequence is longer."""

LOG_PROBS_BYTES = 64 * 1024**2
"""Size of one float32 logits chunk when log-probabilities are made to be kept."""

TEACHERS = ("log_probs", "states", "none")


@dataclass(frozen=True)
class CachePlan:
    """What fits a byte budget.

    Attributes:
        base: Whether base states (s, d) are kept.
        teacher: What is kept of the teacher: its log-probabilities (n, v), its final states (n, d), or nothing.
        bytes: What it takes.
    """

    base: bool
    teacher: str
    bytes: int

    @classmethod
    def choose(
        cls,
        items: Sequence[Item],
        hidden: int,
        vocabulary: int,
        itemsize: int,
        budget: int,
        *,
        teacher: bool = True,
    ) -> CachePlan:
        """The plan that saves the most work within `budget` bytes; without a `teacher` nothing is kept of it.

        A teacher that is not kept costs a whole forward a step, base states half of one or so, its log-probabilities
        one product with the head: kept in that order.
        """
        base = sum(len(item.base) for item in items) * hidden * itemsize
        if not teacher:
            return cls(True, "none", base) if base <= budget else cls(False, "none", 0)
        scored = sum(item.n_scored for item in items)
        states, log_probs = scored * hidden * itemsize, scored * vocabulary * 4
        options = [
            cls(True, "log_probs", base + log_probs),
            cls(True, "states", base + states),
            cls(False, "log_probs", log_probs),
            cls(False, "states", states),
        ]
        return next((plan for plan in options if plan.bytes <= budget), cls(False, "none", 0))


class FrozenCache:
    """Serves the frozen parts of items, from memory or computed again.

    Args:
        model: The frozen model in parts.
        layers: The sites' blocks, ascending; base states are those of the lowest.
        items: All items; they are asked for by index.
        plan: What to keep.
        device: Where the model takes ids.
        progress: Told of every batch of the build.
        judged: Also read log p of every item's response behind its `source` or its `base` prompt.

    Attributes:
        sources: (items, m, d) float32, the source's state at each site.
        likelihoods: (items,) float32, if `judged`.
    """

    def __init__(
        self,
        model: SplitModel,
        layers: Sequence[int],
        items: Sequence[Item],
        plan: CachePlan,
        device: torch.device,
        progress: ProgressCallback | None = None,
        *,
        judged: str | None = None,
    ) -> None:
        self._model, self._layers, self._items, self._device = model, tuple(layers), items, device
        self.plan = plan
        self._base: dict[int, Tensor] = {}
        self._teacher: dict[int, Tensor] = {}
        self._sources: dict[int, Tensor] = {}
        self.likelihoods = torch.zeros(len(items))
        self._build(progress, judged)
        self.likelihoods = self.likelihoods.to(device)
        self.sources = torch.stack([self._sources[index] for index in range(len(items))])

    def base(self, indices: Sequence[int]) -> list[Tensor]:
        """States (s, d) at the site of each item's base sequence, without intervention."""
        missing = [index for index in indices if index not in self._base]
        fresh = dict(zip(missing, self._run_trunk(missing), strict=True)) if missing else {}
        return [fresh[index] if index in fresh else self._base[index] for index in indices]

    def teacher(self, indices: Sequence[int]) -> Callable[[int, int], Tensor]:
        """Log-probabilities of the teacher at these items' scored tokens, one after the other: (start, end) -> (.., v).

        Within one item kept log-probabilities come as a view.
        """
        if self.plan.teacher == "none":
            kept = [finals for _, finals in self._run_whole(indices)]
        else:
            kept = [self._teacher[index] for index in indices]
        offsets = list(itertools.accumulate((len(part) for part in kept), initial=0))

        def between(start: int, end: int) -> Tensor:
            first, last = bisect_right(offsets, start) - 1, bisect_left(offsets, end)
            parts = [
                part[max(start - offset, 0) : end - offset]
                for part, offset in zip(kept[first:last], offsets[first:last], strict=True)
            ]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            return joined if self.plan.teacher == "log_probs" else self._log_probs(joined)

        return between

    @torch.no_grad()
    def _log_probs(self, finals: Tensor) -> Tensor:
        """Log-probabilities (n, v) of head inputs (n, d), the logits in chunks."""
        vocabulary = self._model.vocabulary
        found = finals.new_empty((len(finals), vocabulary), dtype=torch.float32)
        chunk = max(1, LOG_PROBS_BYTES // (4 * vocabulary))
        for states, part in zip(finals.split(chunk), found.split(chunk), strict=True):
            torch.log_softmax(self._model.logits(states).float(), dim=-1, out=part)
        return found

    def _build(self, progress: ProgressCallback | None, judged: str | None) -> None:
        started, total, done = time.monotonic(), len(self._items), 0
        for group in buckets([len(item.source) for item in self._items], BUILD_TOKENS):
            for index, (source, finals) in zip(group, self._run_whole(group), strict=True):
                self._sources[index] = source
                if self.plan.teacher == "log_probs":
                    self._teacher[index] = self._log_probs(finals)
                elif self.plan.teacher == "states":
                    self._teacher[index] = finals
                if judged == "source":
                    self.likelihoods[index] = self._likelihood(index, finals)
            if judged == "base":
                for index, finals in zip(group, self._run_bases(group), strict=True):
                    self.likelihoods[index] = self._likelihood(index, finals)
            if self.plan.base:
                self._base |= dict(zip(group, self._run_trunk(group), strict=True))
            done += len(group)
            if progress is not None:
                progress(Progress("cache", done, total, time.monotonic() - started))

    def _run_whole(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Source states (m, d) float32 and teacher's final states (n, d) a item, from plain forwards of the sources."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for group in self._groups(indices, [len(self._items[index].source) for index in indices]):
            items = [self._items[index] for index in group]
            ids, _ = pad_right([item.source for item in items], self._device)
            states, finals = self._model.whole(ids, self._layers)
            for row, (index, item) in enumerate(zip(group, items, strict=True)):
                source = torch.stack([of_site[row, item.source_position].float() for of_site in states])
                found[index] = source, finals[row, item.source_scored].clone()  # a view would keep all states
        return [found[index] for index in indices]

    def _run_bases(self, indices: Sequence[int]) -> list[Tensor]:
        """Final states (n, d) at the scored tokens a item, from plain forwards of the base sequences."""
        found: dict[int, Tensor] = {}
        for group in self._groups(indices, [len(self._items[index].base) for index in indices]):
            ids, _ = pad_right([self._items[index].base for index in group], self._device)
            _, finals = self._model.whole(ids, ())
            for row, index in enumerate(group):
                found[index] = finals[row, self._items[index].scored].clone()
        return [found[index] for index in indices]

    def _likelihood(self, index: int, finals: Tensor) -> Tensor:
        """log p (), float32, of an item's response where its tokens are predicted from `finals` (n, d)."""
        labels = torch.tensor(self._items[index].response, device=finals.device)
        return self._log_probs(finals).gather(1, labels[:, None]).sum()

    def _run_trunk(self, indices: Sequence[int]) -> list[Tensor]:
        """States (s, d) at the site a item, from forwards of the base sequences."""
        found: dict[int, Tensor] = {}
        for group in self._groups(indices, [len(self._items[index].base) for index in indices]):
            ids, _ = pad_right([self._items[index].base for index in group], self._device)
            states = self._model.trunk(ids, self._layers[0])
            for row, index in enumerate(group):
                found[index] = states[row, : len(self._items[index].base)].clone()
        return [found[index] for index in indices]

    def _groups(self, indices: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """The indices in groups that one forward may hold.

        Called for the sequences that are run: an item's base may be long where its source is short.
        """
        return [[indices[place] for place in group] for group in buckets(lengths, BUILD_TOKENS)]
