"""Plain forwards of whole sequences, for what is frozen: states at some blocks, and the head's input at some tokens.

Blocks of a common kind are run in the lean way (`trimtab.models.lean`): no pads, and in the last block nothing for
tokens that are not asked for. Before it is used it is tried on some sequences against the family's own forward.

Letters: s tokens of a sequence, d hidden, n wanted tokens, t tokens of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from trimtab.models.capture import pad_right
from trimtab.models.lean import Editor, LeanStack, lean_blocks
from trimtab.models.lean_attention import Batch
from trimtab.models.proof import FAILURES, agrees
from trimtab.models.split import SplitModel

logger = logging.getLogger(__name__)

Ids = Sequence[int]

PROOF_SEQUENCES = 2
"""Sequences, the longest ones, on which callers have a shortcut tried before it is used."""
PROOF_TOKENS = 32
"""Last tokens of these that are compared behind the last block; in the middle of the model, all are."""


class PlainRuns:
    """Forwards over groups of sequences.

    Args:
        model: The frozen model in parts.
        device: Where it takes ids.
        proof: Sequences on which shortcuts are tried; give the longest there will be, since a family that attends
            within a window differs only beyond it.
    """

    def __init__(self, model: SplitModel, device: torch.device, proof: Sequence[Ids]) -> None:
        self._model, self._device, self._proof = model, device, proof

    @cached_property
    def _lean(self) -> LeanStack | None:
        """The lean way through all blocks, if it gives the same; tried when the first forward is asked for."""
        return self._proved(self._proof)

    @torch.no_grad()
    def finals(
        self, sequences: Sequence[Ids], wanted: Sequence[slice], layers: Sequence[int] = ()
    ) -> list[tuple[list[Tensor], Tensor]]:
        """For each sequence its states (s, d) at the output of the blocks `layers`, and the head's input (n, d).

        Args:
            sequences: Token ids.
            wanted: At which tokens of each the head's input is wanted; at least one.
            layers: Blocks.
        """
        return self._finals(self._lean, sequences, wanted, layers)

    @torch.no_grad()
    def trunks(self, sequences: Sequence[Ids], layers: Sequence[int]) -> list[list[Tensor]]:
        """For each sequence its states (s, d) at the output of each block of `layers`; no block above them runs."""
        if self._lean is None:
            ids, _ = pad_right(sequences, self._device)
            states = self._model.trunks(ids, layers)
            return [
                [of_layer[row, : len(sequence)].clone() for of_layer in states]  # a view would keep the pads
                for row, sequence in enumerate(sequences)
            ]
        x, batch = self._embedded(sequences)
        seen = _Seen(layers)
        self._lean.states(x, batch, max(layers), seen.editors)
        return seen.by_row(batch)

    def _proved(self, proof: Sequence[Ids]) -> LeanStack | None:
        layout = self._model.layout
        blocks = lean_blocks(layout, 0)
        if blocks is None:
            return None
        stack, middle = LeanStack(layout, blocks, 0, None), layout.n_blocks // 2
        last = [slice(-PROOF_TOKENS, None)] * len(proof)
        try:
            with torch.no_grad():
                plain, short = (self._finals(way, proof, last, [middle]) for way in (None, stack))
        except FAILURES as error:
            logger.info("shortcut 'lean' is not for this family: %s", error)
            return None
        states = (torch.cat([state for states, _ in found for state in states]) for found in (short, plain))
        finals = (torch.cat([final for _, final in found]) for found in (short, plain))
        return stack if agrees("lean", *states) and agrees("lean, finals", *finals) else None

    def _finals(
        self, stack: LeanStack | None, sequences: Sequence[Ids], wanted: Sequence[slice], layers: Sequence[int]
    ) -> list[tuple[list[Tensor], Tensor]]:
        places = [range(*part.indices(len(sequence))) for part, sequence in zip(wanted, sequences, strict=True)]
        if stack is None:
            ids, _ = pad_right(sequences, self._device)
            states, final = self._model.whole(ids, layers)
            return [
                # a view would keep all states
                ([s[row, : len(sequence)] for s in states], final[row, part.start : part.stop].clone())
                for row, (sequence, part) in enumerate(zip(sequences, places, strict=True))
            ]
        x, batch = self._embedded(sequences)
        seen, counts = _Seen(layers), torch.tensor([len(part) for part in places])
        rows = torch.repeat_interleave(torch.arange(len(places)), counts)
        columns = torch.cat([torch.arange(part.start, part.stop) for part in places])
        final = stack.finals(x, batch, batch.some(rows, columns), seen.editors)
        return list(zip(seen.by_row(batch), final.split(counts.tolist()), strict=True))

    def _embedded(self, sequences: Sequence[Ids]) -> tuple[Tensor, Batch]:
        """The first block's input (t, d)."""
        ids = torch.tensor([token for sequence in sequences for token in sequence], device=self._device)
        embed = self._model.layout.model.get_input_embeddings()
        return embed(ids), Batch.of(torch.tensor([len(sequence) for sequence in sequences]))


class _Seen:
    """Editors of a lean run that change nothing and keep what they see."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers, self._states = layers, dict[int, Tensor]()

    @property
    def editors(self) -> dict[int, Editor]:
        return {layer: lambda x, layer=layer: self._states.setdefault(layer, x) for layer in self._layers}

    def by_row(self, batch: Batch) -> list[list[Tensor]]:
        """For each row its states (s, d) at each layer, each a tensor of its own."""
        lengths = batch.lengths.tolist()
        parts = [self._states[layer].split(lengths) for layer in self._layers]
        return [[of_layer[row].clone() for of_layer in parts] for row in range(len(lengths))]
