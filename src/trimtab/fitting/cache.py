"""What is frozen is computed once: base states, source states and teacher distributions of interchange items.

Letters: n scored tokens, d hidden, v vocabulary, s tokens of a sequence, m sites.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.fitting.buckets import buckets
from trimtab.fitting.items import Item
from trimtab.models.runs import PROOF_SEQUENCES, PlainRuns
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


@dataclass(frozen=True, eq=False)
class _Frozen:
    """What plain forwards gave. By number of an item.

    Attributes:
        base: By block, states (s, d) at its output.
        teacher: Log-probabilities (all scored tokens, v) or final states (.., d) of all items, in the order they were
            made.
        rows: An item's are those from the first number up to the second.
        sources: (m, d) float32, at all blocks of the runs.
        likelihoods: () float32.
    """

    base: dict[int, dict[int, Tensor]]
    teacher: Tensor
    rows: dict[int, tuple[int, int]]
    sources: dict[int, Tensor]
    likelihoods: dict[int, Tensor]


class FrozenRuns:
    """Plain forwards that fits of the same items at different layers share: made by the first, once for all layers.

    Args:
        layers: The blocks of the fits to come.
        budget: Bytes that may be kept of one set of items; where it takes more, nothing is shared.
    """

    def __init__(self, layers: Sequence[int], budget: int) -> None:
        self.layers, self.budget = tuple(layers), budget
        self._kept: dict[tuple[tuple[Item, ...], str], _Frozen] = {}

    def serves(self, layers: Sequence[int], plan: CachePlan, base_bytes: int) -> bool:
        """Whether a fit at these layers shares; `base_bytes` is what base states take at one of them."""
        more = (len(self.layers) - 1) * base_bytes
        return {*layers} <= {*self.layers} and plan.base and plan.bytes + more <= self.budget

    def of(self, items: Sequence[Item], plan: CachePlan, made: Callable[[], _Frozen]) -> _Frozen:
        """What is kept of these items, made now if nothing is."""
        key = (tuple(items), plan.teacher)
        if key not in self._kept:
            self._kept[key] = made()
        return self._kept[key]


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
        runs: What fits at other layers share with this one.
        sources: Whether anything of the sources is needed; else none is run.

    Attributes:
        sources: (items, m, d) float32, the source's state at each site; zeros where sources are not run.
        likelihoods: (items,) float32, with `judged` only.
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
        runs: FrozenRuns | None = None,
        sources: bool = True,
    ) -> None:
        self._model, self._layers, self._items, self._device = model, tuple(layers), items, device
        self.plan, self._runs_sources, numbers = plan, sources, range(len(items))
        width = model.layout.hidden_size * model.dtype.itemsize
        run = [sequence for item in items for sequence in (item.source, item.base)]
        self._runs = PlainRuns(model, device, sorted(run, key=len)[-PROOF_SEQUENCES:])
        if runs is not None and judged is None and runs.serves(layers, plan, width * sum(len(i.base) for i in items)):
            recorded = runs.layers
            frozen = runs.of(items, plan, lambda: self._built(recorded, progress, judged))
        else:
            recorded = self._layers
            frozen = self._built(recorded, progress, judged)
        self._base = frozen.base.get(self._layers[0], {})
        self._teacher, self._rows = frozen.teacher, frozen.rows
        places = [recorded.index(layer) for layer in self._layers]
        self.sources = torch.stack([frozen.sources[index][places] for index in numbers])
        if judged is not None:
            self.likelihoods = torch.stack([frozen.likelihoods[index] for index in numbers])

    def base(self, indices: Sequence[int]) -> list[Tensor]:
        """States (s, d) at the site of each item's base sequence, without intervention."""
        missing = [index for index in indices if index not in self._base]
        run = self._run_trunk(missing, self._layers[:1]) if missing else []
        fresh = {index: states for index, (states,) in zip(missing, run, strict=True)}
        return [fresh[index] if index in fresh else self._base[index] for index in indices]

    def teacher(self, indices: Sequence[int]) -> Callable[[int, int], Tensor]:
        """Log-probabilities of the teacher at these items' scored tokens, one after the other: (start, end) -> (.., v).

        Within one item kept log-probabilities come as a view.
        """
        if self.plan.teacher == "none":
            kept = torch.cat([finals for _, finals in self._run_whole(indices)])
            rows = torch.arange(len(kept))
        else:
            kept, rows = self._teacher, torch.cat([torch.arange(*self._rows[index]) for index in indices])

        def between(start: int, end: int) -> Tensor:
            part, first = rows[start:end], int(rows[start])
            is_run = torch.equal(part, torch.arange(first, first + len(part)))
            joined = kept[first : first + len(part)] if is_run else kept.index_select(0, part.to(kept.device))
            return joined if self.plan.teacher == "log_probs" else self._log_probs(joined)

        return between

    @torch.no_grad()
    def _log_probs(self, finals: Tensor, out: Tensor | None = None) -> Tensor:
        """Log-probabilities (n, v) of head inputs (n, d), the logits in chunks; written into `out` if it is given."""
        vocabulary = self._model.vocabulary
        found = finals.new_empty((len(finals), vocabulary), dtype=torch.float32) if out is None else out
        chunk = max(1, LOG_PROBS_BYTES // (4 * vocabulary))
        for states, part in zip(finals.split(chunk), found.split(chunk), strict=True):
            torch.log_softmax(self._model.logits(states).float(), dim=-1, out=part)
        return found

    def _built(self, layers: Sequence[int], progress: ProgressCallback | None, judged: str | None) -> _Frozen:
        """What the plan keeps, of all blocks `layers`."""
        started, total, done = time.monotonic(), len(self._items), 0
        widths = {"log_probs": self._model.vocabulary, "states": self._model.layout.hidden_size, "none": 0}
        dtype = torch.float32 if self.plan.teacher == "log_probs" else self._model.dtype
        n_scored = sum(item.n_scored for item in self._items)
        teacher = torch.empty((n_scored, widths[self.plan.teacher]), dtype=dtype, device=self._device)
        frozen, filled = _Frozen({layer: {} for layer in layers if self.plan.base}, teacher, {}, {}, {}), 0
        nothing = torch.zeros(len(layers), self._model.layout.hidden_size, device=self._device)
        lengths = [len(item.source if self._runs_sources else item.base) for item in self._items]
        for group in buckets(lengths, BUILD_TOKENS):
            if not self._runs_sources:
                frozen.sources.update(dict.fromkeys(group, nothing))
            else:
                runs = self._run_whole(group, layers)
                finals, first = torch.cat([of_item for _, of_item in runs]), filled
                for index, (source, of_item) in zip(group, runs, strict=True):
                    frozen.sources[index] = source
                    frozen.rows[index] = filled, filled + len(of_item)
                    filled += len(of_item)
                    if judged == "source":
                        frozen.likelihoods[index] = self._likelihood(index, of_item)
                if self.plan.teacher == "log_probs":
                    self._log_probs(finals, teacher[first:filled])
                elif self.plan.teacher == "states":
                    teacher[first:filled] = finals
            if judged == "base":
                for index, finals in zip(group, self._run_bases(group), strict=True):
                    frozen.likelihoods[index] = self._likelihood(index, finals)
            if self.plan.base:
                for index, states in zip(group, self._run_trunk(group, layers), strict=True):
                    for layer, of_layer in zip(layers, states, strict=True):
                        frozen.base[layer][index] = of_layer
            done += len(group)
            if progress is not None:
                progress(Progress("cache", done, total, time.monotonic() - started))
        return frozen

    def _run_whole(self, indices: Sequence[int], layers: Sequence[int] = ()) -> list[tuple[Tensor, Tensor]]:
        """Source states (m, d) float32 and teacher's final states (n, d) a item, from plain forwards of the sources."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for group in self._groups(indices, [len(self._items[index].source) for index in indices]):
            items = [self._items[index] for index in group]
            runs = self._runs.finals([item.source for item in items], [item.source_scored for item in items], layers)
            for index, item, (states, finals) in zip(group, items, runs, strict=True):
                at = [of_site[item.source_position].float() for of_site in states]
                found[index] = torch.stack(at) if at else torch.empty(0), finals
        return [found[index] for index in indices]

    def _run_bases(self, indices: Sequence[int]) -> list[Tensor]:
        """Final states (n, d) at the scored tokens a item, from plain forwards of the base sequences."""
        found: dict[int, Tensor] = {}
        for group in self._groups(indices, [len(self._items[index].base) for index in indices]):
            items = [self._items[index] for index in group]
            runs = self._runs.finals([item.base for item in items], [item.scored for item in items])
            found |= {index: finals for index, (_, finals) in zip(group, runs, strict=True)}
        return [found[index] for index in indices]

    def _likelihood(self, index: int, finals: Tensor) -> Tensor:
        """log p (), float32, of an item's response where its tokens are predicted from `finals` (n, d)."""
        labels = torch.tensor(self._items[index].response, device=finals.device)
        return self._log_probs(finals).gather(1, labels[:, None]).sum()

    def _run_trunk(self, indices: Sequence[int], layers: Sequence[int]) -> list[list[Tensor]]:
        """States (s, d) at the output of each block of `layers` a item, from forwards of the base sequences."""
        found: dict[int, list[Tensor]] = {}
        for group in self._groups(indices, [len(self._items[index].base) for index in indices]):
            runs = self._runs.trunks([self._items[index].base for index in group], layers)
            found |= dict(zip(group, runs, strict=True))
        return [found[index] for index in indices]

    def _groups(self, indices: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """The indices in groups that one forward may hold.

        Called for the sequences that are run: an item's base may be long where its source is short.
        """
        return [[indices[place] for place in group] for group in buckets(lengths, BUILD_TOKENS)]
