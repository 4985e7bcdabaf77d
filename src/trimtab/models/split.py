"""Run parts of a frozen model: the trunk up to a block, only the blocks above it, or the head alone.

Blocks that are not wanted are replaced by pass-throughs for the time of a call and the model's own forward does the
rest, so masks, rotary embeddings, soft-caps and scalings stay the family's own business. Sequences are right-padded and
need no mask: with causal attention no real token sees a pad.

Letters: b batch, s sequence, d hidden, v vocabulary, n tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from trimtab.models.layout import CheckedLayout, evaluating, state_of
from trimtab.models.versions import cache_argument


class _PassThrough(nn.Module):
    """Stands in for a block: hands on its input, or `state` if one is given. Everything else is read off the block."""

    def __init__(self, block: nn.Module, state: Tensor | None, *, as_tuple: bool) -> None:
        super().__init__()
        self.__dict__["_block"] = block  # not registered: the stand-in must not own the block's weights
        self.state, self.as_tuple = state, as_tuple

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = hidden_states if self.state is None else self.state
        return (out, None) if self.as_tuple else out

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"], name)


class SplitModel:
    """A frozen model that can be run in parts.

    Args:
        hf: The model; it must be in evaluation mode with frozen weights (see `frozen`).
        layout: Its checked layout.
    """

    def __init__(self, hf: PreTrainedModel, layout: CheckedLayout) -> None:
        self._hf, self._layout = hf, layout
        self._cache = cache_argument(type(layout.stack).forward)

    @property
    def layout(self) -> CheckedLayout:
        """The model's parts."""
        return self._layout

    @property
    def dtype(self) -> torch.dtype:
        """What the head computes in."""
        return self._layout.head.get_parameter("weight").dtype

    @property
    def vocabulary(self) -> int:
        """Number of logits v a token."""
        return self._layout.head.get_parameter("weight").shape[0]

    def trunk(self, ids: Tensor, layer: int) -> Tensor:
        """Output (b, s, d) of block `layer` for right-padded ids (b, s); no block above it runs."""
        return self.trunks(ids, [layer])[0]

    @torch.no_grad()
    def trunks(self, ids: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Outputs (b, s, d) of the blocks `layers` for right-padded ids (b, s); no block above the highest runs."""
        with ExitStack() as opened:
            opened.enter_context(self._skipping(range(max(layers) + 1, self._layout.n_blocks)))
            states = [opened.enter_context(self._recording(layer)) for layer in layers]
            self._run(ids)
        return [of_layer[0] for of_layer in states]

    @torch.no_grad()
    def whole(self, ids: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Outputs (b, s, d) of the blocks `layers` and the head's input (b, s, d), from one plain forward."""
        with ExitStack() as open_hooks:
            states = [open_hooks.enter_context(self._recording(layer)) for layer in layers]
            final = self._run(ids)
        return [of_layer[0] for of_layer in states], final

    def upper(self, states: Tensor, layer: int, past: DynamicCache | None = None) -> Tensor:
        """The head's input (b, s, d) when block `layer` puts out `states` (b, s, d); differentiable.

        With `past` the states follow tokens whose keys and values are known; it grows by the call.
        """
        ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        with self._skipping(range(layer + 1), states):
            return self._run(ids, past)

    @torch.no_grad()
    def keys_and_values(self, ids: Tensor) -> DynamicCache:
        """The cache of a plain forward over ids (b, s)."""
        cache = DynamicCache(config=self._hf.config)
        self._run(ids, cache)
        return cache

    @property
    def head_weight(self) -> Tensor | None:
        """W (v, d) where logits are W times the head's input and nothing else, so that their gradient is known."""
        head = self._layout.head
        plain = self._layout.head_is_whole and type(head) is nn.Linear and head.bias is None
        hooked = head._forward_hooks or head._forward_pre_hooks
        return head.get_parameter("weight") if plain and not hooked else None

    def logits(self, states: Tensor) -> Tensor:
        """Logits (n, v) of head inputs (n, d), with whatever the family does after its head; differentiable."""
        if self._layout.head_is_whole:
            return self._layout.head(states)
        ids = torch.zeros((1, states.shape[0]), dtype=torch.int64, device=states.device)
        handle = self._layout.head.register_forward_pre_hook(lambda _, args: (states[None], *args[1:]))
        try:
            with self._skipping(range(self._layout.n_blocks)):
                return self._hf(input_ids=ids, use_cache=False).logits[0]
        finally:
            handle.remove()

    def _run(self, ids: Tensor, past: DynamicCache | None = None) -> Tensor:
        cache = {} if past is None else {self._cache: past}
        return self._layout.stack(input_ids=ids, use_cache=past is not None, **cache)[0]

    @contextmanager
    def without_above(self, layer: int) -> Iterator[None]:
        """For a while no block above `layer` runs, whoever runs the stack of blocks."""
        with self._skipping(range(layer + 1, self._layout.n_blocks)):
            yield

    @contextmanager
    def _recording(self, layer: int) -> Iterator[list[Tensor]]:
        states: list[Tensor] = []
        block = self._layout.blocks[layer]
        handle = block.register_forward_hook(lambda _, __, output: states.append(state_of(output)))
        try:
            yield states
        finally:
            handle.remove()

    @contextmanager
    def _skipping(self, indices: range, state: Tensor | None = None) -> Iterator[None]:
        """Put pass-throughs in place of blocks; the first hands on `state` if given."""
        blocks, as_tuple = self._layout.blocks, self._layout.tuple_output
        originals = {index: blocks[index] for index in indices}
        try:
            for index, block in originals.items():
                blocks[index] = _PassThrough(block, state if index == indices[0] else None, as_tuple=as_tuple)
            yield
        finally:
            for index, block in originals.items():
                blocks[index] = block


@contextmanager
def frozen(hf: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient for the weights, for a while; both as before afterwards."""
    trainable = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    with evaluating(hf):
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
