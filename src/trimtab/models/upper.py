"""Run only the blocks above a site, leaving out every piece of work that cannot reach a scored token.

Three things need not be done in a training step: blocks below the site (their output is known), the template prefix
that all sequences share and nobody edits (its keys and values are known), and, in the last block, everything after the
attention on tokens that are not scored. Blocks of a common kind are run in another way altogether, with fewer and
larger operations (`trimtab.models.lean`). Each shortcut is tried once against the plain way, and used only if it gives
the same.

Letters: b batch, s tokens after the prefix, d hidden, n scored tokens.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from trimtab.errors import InputError
from trimtab.models.capture import pad_right
from trimtab.models.families import FAMILIES, BlockParts
from trimtab.models.layout import state_of, with_state
from trimtab.models.lean import Editor, LeanStack, lean_blocks
from trimtab.models.proof import FAILURES, agrees, difference
from trimtab.models.split import SplitModel

logger = logging.getLogger(__name__)


UNLIKE = {torch.float32: 0.05, torch.float64: 1e-3}
"""Relative difference from the whole model that no rounding explains, a dtype.

In float32 sixteen families differ by 4e-7 at most, and products may be made in TF32; Gemma 4 differs by 0.5."""
UNLIKE_HALF = 0.25
"""The same in half precision, where rounding may choose another expert."""


@dataclass(frozen=True)
class Shortcuts:
    """Which pieces of work are left out.

    Attributes:
        past: The prefix: its keys and values are used instead.
        thin: The last block's projection and MLP on tokens that are not scored.
        lean: All of it, by running the blocks in our own way.
    """

    past: bool = False
    thin: bool = False
    lean: bool = False


class UpperBlocks:
    """The blocks above `layer`, for sequences that begin with the same `prefix_ids`.

    Args:
        split: The frozen model.
        layer: The site's block; the states handed in are its output.
        prefix_ids: Leading tokens of every sequence, not edited; may be empty.
        device: Where the model takes ids.
    """

    def __init__(self, split: SplitModel, layer: int, prefix_ids: Sequence[int], device: torch.device) -> None:
        self._split, self._layer = split, layer
        self._prefix = torch.tensor([list(prefix_ids)], dtype=torch.int64, device=device)
        self._states = split.trunk(self._prefix, layer) if prefix_ids else None  # (1, p, d)
        self._past: DynamicCache | None = None
        self._shortcuts = Shortcuts()
        self._lean: LeanStack | None = None

    @property
    def prefix_length(self) -> int:
        """Tokens that callers leave out in front."""
        return self._prefix.shape[1]

    @property
    def is_flat(self) -> bool:
        """Whether no work is done on pads."""
        return self._shortcuts.lean

    def __call__(
        self,
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
        lengths: Tensor,
        editors: Mapping[int, Editor] | None = None,
    ) -> Tensor:
        """The head's input at scored tokens, differentiable.

        Args:
            states: (b, s, d), output of block `layer` after the prefix, right-padded.
            rows: (n,) int64, the row of each scored token, in ascending order.
            columns: (n,) int64, its place after the prefix.
            lengths: (b,) int64 on the CPU, tokens of each row after the prefix.
            editors: Edits at the output of higher blocks, by block; each sees the states after the prefix.

        Returns:
            (n, d).
        """
        return self._run(states, rows, columns, lengths, self._shortcuts, editors or {})

    @torch.no_grad()
    def prove(self, states: Tensor, rows: Tensor, columns: Tensor, lengths: Tensor) -> None:
        """Try each shortcut on sequences as in a call, and keep those that give what the plain way gives.

        Give the longest sequences there will be: a family that attends within a window differs only beyond it.
        """
        plain = self._run(states, rows, columns, lengths, Shortcuts())
        for name in ("lean", "past", "thin"):
            if self._shortcuts.lean or (name == "past" and self._states is None):
                continue
            tried = replace(self._shortcuts, **{name: True})
            try:
                short = self._run(states, rows, columns, lengths, tried)
            except FAILURES as error:
                logger.info("shortcut %r is not for this family: %s", name, error)
                continue
            if agrees(name, short, plain):
                self._shortcuts = tried

    @torch.no_grad()
    def check_alone(
        self, states: Tensor, rows: Tensor, columns: Tensor, lengths: Tensor, sequences: Sequence[Sequence[int]]
    ) -> None:
        """Raise InputError unless the blocks give alone what they give in a forward of the whole model.

        They do not in families whose blocks read more than hidden states. Arguments as in a call; `states` are the
        plain ones of `sequences`, token ids with the prefix.
        """
        layout = self._split.layout
        reason = (
            f"the blocks of {layout.model_type} above layer {self._layer} read more than the hidden state (token ids, "
            "or the keys of blocks below), so they cannot be run alone, and nothing can be trained there"
        )
        ids, _ = pad_right(sequences, states.device)
        whole = self._split.whole(ids, [])[1][rows, columns + self.prefix_length]
        try:
            plain = self._run(states, rows, columns, lengths, Shortcuts())
        except KeyError as error:
            raise InputError(f"{reason}; fit a closed form such as diffmean") from error
        if bool(torch.isfinite(whole).all()) and difference(plain, whole) > UNLIKE.get(plain.dtype, UNLIKE_HALF):
            raise InputError(f"{reason}; fit a closed form such as diffmean")

    def _run(
        self,
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
        lengths: Tensor,
        shortcuts: Shortcuts,
        editors: Mapping[int, Editor] = MappingProxyType({}),
    ) -> Tensor:
        if shortcuts.lean:
            return self._in_lean_way()(states, rows, columns, lengths, editors)
        b, prefix = states.shape[0], 0
        if self._states is not None and not shortcuts.past:
            states = torch.cat([self._states.expand(b, -1, -1), states], dim=1)
            prefix = self.prefix_length
            columns = columns + prefix
        with (
            self._thin_last_block(rows, columns) if shortcuts.thin else nullcontext(),
            self._edited(editors, prefix),
        ):
            final = self._split.upper(states, self._layer, self._expanded(b) if shortcuts.past else None)
        return final[rows, columns]

    def _in_lean_way(self) -> LeanStack:
        """The blocks above the site as `trimtab.models.lean` runs them.

        Raises:
            ValueError: They are of another kind.
        """
        if self._lean is None:
            layout, first = self._split.layout, self._layer + 1
            blocks = lean_blocks(layout, first)
            if blocks is None:
                raise ValueError(f"blocks of {layout.model_type} are of another kind")
            past = self._split.keys_and_values(self._prefix) if self._states is not None else None
            self._lean = LeanStack(layout, blocks, first, past)
        return self._lean

    @contextmanager
    def _edited(self, editors: Mapping[int, Editor], prefix: int) -> Iterator[None]:
        """Edit what blocks put out, behind the prefix."""
        with ExitStack() as hooks:
            for layer, editor in editors.items():

                def edit(_: nn.Module, __: Any, output: Any, editor: Editor = editor) -> Any:
                    states = state_of(output)
                    return with_state(output, torch.cat([states[:, :prefix], editor(states[:, prefix:])], dim=1))

                hooks.callback(self._split.layout.blocks[layer].register_forward_hook(edit).remove)
            yield

    def _expanded(self, b: int) -> DynamicCache:
        """The prefix's keys and values for b rows; a copy, since a forward appends to it."""
        if self._past is None:
            self._past = self._split.keys_and_values(self._prefix)
        cache = copy.deepcopy(self._past)
        cache.batch_repeat_interleave(b)
        return cache

    @contextmanager
    def _thin_last_block(self, rows: Tensor, columns: Tensor) -> Iterator[None]:
        """In the last block run the attention's projection and the MLP on the scored tokens only; others get zeros."""
        layout = self._split.layout
        block = layout.blocks[-1]
        parts = FAMILIES.get(layout.model_type, BlockParts())
        if self._layer >= layout.n_blocks - 1:
            yield
            return
        with ExitStack() as hooks:
            for path in (parts.attention_projection, parts.mlp):
                module = block.get_submodule(path)
                shape: list[int] = []

                def gather(_: nn.Module, args: tuple[Any, ...], shape: list[int] = shape) -> tuple[Any, ...]:
                    shape[:] = args[0].shape
                    return (args[0][rows, columns][None], *args[1:])

                def scatter(_: nn.Module, __: tuple[Any, ...], output: Tensor, shape: list[int] = shape) -> Tensor:
                    whole = output.new_zeros((*shape[:2], output.shape[-1]))
                    return whole.index_put((rows, columns), output[0])

                hooks.callback(module.register_forward_pre_hook(gather).remove)
                hooks.callback(module.register_forward_hook(scatter).remove)
            yield
